//! FAISS, through the bindings of the crate `faiss`.

use ::faiss::error::Error as Native;
use ::faiss::index::IndexImpl;
use ::faiss::index::autotune::ParameterSpace;
use ::faiss::index::io::write_index;
use ::faiss::{Index, MetricType, index_factory};
use bigrain::error::{Error, Result};
use bigrain::types::Metric;
use std::time::Instant;

use super::{Documents, Engine, Parameter};

/// Whether baselines can be built at all: they can.
///
/// # Errors
/// None here; a build without FAISS has another function of this name.
#[expect(clippy::unnecessary_wraps, reason = "the function of a build without FAISS fails")]
pub(super) fn check(_factory: &str) -> Result<()> {
    Ok(())
}

/// Builds an index for each factory string, with the seconds it took, and sets the threads of searches after it.
///
/// # Errors
/// `InvalidParams` with what FAISS says.
pub(super) fn build(
    factories: &[String],
    documents: &Documents,
    metric: Metric,
    threads: usize,
) -> Result<Vec<(Box<dyn Engine>, f64)>> {
    let threads = openmp::threads(threads)?;
    let built = factories
        .iter()
        .map(|factory| {
            let begun = Instant::now();
            let engine = Faiss::build(factory, documents, metric).map_err(|error| {
                let reason = format!("FAISS cannot build {factory:?} of these documents: {}", said(&error));
                Error::params("baseline", reason)
            })?;
            Ok((Box::new(engine) as Box<dyn Engine>, begun.elapsed().as_secs_f64()))
        })
        .collect::<Result<_>>()?;
    openmp::omp_set_num_threads(threads);
    Ok(built)
}

/// An index of FAISS.
struct Faiss {
    index: IndexImpl,
    parameters: ParameterSpace,
}

impl Faiss {
    fn build(factory: &str, documents: &Documents, metric: Metric) -> Result<Faiss, Native> {
        let metric = match metric {
            Metric::L2 => MetricType::L2,
            Metric::Ip | Metric::Cosine => MetricType::InnerProduct,
        };
        // A dimension that an index of bigrain has fits.
        let mut index = index_factory(documents.dim() as u32, factory, metric)?;
        // FAISS samples what it trains on itself.
        index.train(documents.vectors())?;
        index.add(documents.vectors())?;
        Ok(Faiss { index, parameters: ParameterSpace::new()? })
    }
}

impl Engine for Faiss {
    fn set(&mut self, parameter: Parameter, value: u32) -> Result<bool> {
        let name = match parameter {
            Parameter::Nprobe => "nprobe",
            Parameter::Refine => "k_factor_rf",
        };
        match self.parameters.set_index_parameter(&self.index, name, value) {
            Ok(()) => Ok(true),
            Err(error) if said(&error).contains("could not set parameter") => Ok(false),
            Err(error) => Err(failed(&format!("setting {name} to {value}"), &error)),
        }
    }

    fn search(&mut self, query: &[f32], k: usize, numbers: &mut Vec<u64>) -> Result<()> {
        let found = self.index.search(query, k).map_err(|error| failed("searching", &error))?;
        numbers.clear();
        numbers.extend(found.labels.iter().filter_map(|label| label.get()));
        Ok(())
    }

    fn file_bytes(&self) -> Result<u64> {
        let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
        let path = folder.path().join("baseline.faiss");
        write_index(&self.index, path.to_string_lossy()).map_err(|error| failed("writing the index", &error))?;
        std::fs::metadata(&path).map(|metadata| metadata.len()).map_err(Error::io(&path))
    }
}

fn failed(what: &str, error: &Native) -> Error {
    Error::params("baseline", format!("FAISS failed at {what}: {}", said(error)))
}

/// The message of an exception in one line, without the place in FAISS's sources that it begins with
/// (`Error in FUNCTION at FILE.cpp:123: `).
fn said(error: &Native) -> String {
    let whole = match error {
        Native::Native(native) => native.msg().to_string(),
        other => other.to_string(),
    };
    let message = match whole.rsplit_once(".cpp:") {
        Some((_, rest)) => rest.split_once(": ").map_or(rest, |(_, message)| message),
        None => &whole,
    };
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The threads of OpenMP, which FAISS has no function of its own for.
#[allow(unsafe_code)] // two functions of the runtime that FAISS is linked with
mod openmp {
    use bigrain::error::{Error, Result};
    use std::ffi::c_int;

    // SAFETY: the signature is that of OpenMP's C header; any number may be given (one below 1 is left to the runtime),
    // no memory is shared, and what it sets belongs to the calling thread.
    #[link(name = "gomp")]
    unsafe extern "C" {
        /// Threads of the parallel regions that this thread begins from now on.
        pub(super) safe fn omp_set_num_threads(threads: c_int);
    }

    /// A number of threads as OpenMP takes it.
    pub(super) fn threads(threads: usize) -> Result<c_int> {
        let too_many = |_| Error::params("threads", format!("{threads} are more than OpenMP can count; use fewer"));
        c_int::try_from(threads).map_err(too_many)
    }
}
