//! What those need who score vectors that no index holds yet.

use super::{Searcher, map_query};
use crate::error::Result;
use crate::heads::HeadScratch;
use crate::simd::Kernels;

impl Searcher {
    /// The kernels that it searches with.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// The query (as given, dim values) as dense vectors are scored with it: normalised under cosine, mapped by the dense head;
    /// dense_dim values.
    ///
    /// # Errors
    /// As those of a search, but for reading.
    pub fn dense_query(&self, query: &[f32]) -> Result<Vec<f32>> {
        let (mut asked, mut mapped) = (super::params::Asked::default(), Vec::new());
        self.prepare(query, &mut asked)?;
        let head = self.index.quantizer().heads().dense_query.as_ref();
        map_query(self.kernels, head, &asked.query, &mut HeadScratch::default(), &mut mapped)?;
        Ok(mapped)
    }
}
