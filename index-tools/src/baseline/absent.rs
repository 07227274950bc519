//! What a build without the feature `faiss` has in place of FAISS: the way to get it.

use bigrain::error::{Error, Result};
use bigrain::types::Metric;

use super::{Documents, Engine};

/// Whether baselines can be built at all.
///
/// # Errors
/// `Unsupported`, with the commands to get them.
pub(super) fn check(factory: &str) -> Result<()> {
    Err(Error::Unsupported {
        what: format!("--baseline {factory:?}"),
        remedy: "this program was built without FAISS; with cmake, a C++ compiler and a BLAS installed, build it with \
                 CXXFLAGS=-march=native cargo build --release --package index-tools --features faiss"
            .into(),
    })
}

/// Builds nothing.
///
/// # Errors
/// As [`check`].
pub(super) fn build(
    factories: &[String],
    _documents: &Documents,
    _metric: Metric,
    _threads: usize,
) -> Result<Vec<(Box<dyn Engine>, f64)>> {
    factories.iter().try_for_each(|factory| check(factory)).map(|()| Vec::new())
}
