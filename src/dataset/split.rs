//! Pairs in three parts: to train on, to tune on, to test on.
//!
//! Drawn one by one, the pairs of a test are answered by what was trained on: the same document with another query, or
//! its near-copy. So what belongs together stays together. Rows are connected by a pair, or by an equal label in a file
//! of groups; a connected component goes to one part as a whole, and so does all that could give its answers away.
//!
//! Components stand in a seeded random order, the test part is cut from its beginning, the valid part from what follows:
//! a component belongs where its middle lies. So fractions hold to within half of the component at the cut, and no
//! part is empty by bad luck where there are many components.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use super::lines::Lines;
use super::pairs::Pair;
use crate::error::{Error, Result};
use crate::sample::Rng;
use crate::vfs::Vfs;

/// The longest label, in bytes.
const LONGEST: usize = 1 << 16;

/// Which file a row is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The file of queries.
    Queries,
    /// The file of documents.
    Documents,
}

/// What share of the pairs is for tuning and for testing; the rest is for training.
#[derive(Clone, Copy, Debug)]
pub struct Fractions {
    /// Share of the valid part, between 0 and 1.
    pub valid: f64,
    /// Share of the test part, between 0 and 1.
    pub test: f64,
}

/// Pairs in three parts, each in the order that they were given in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Pairs to train on.
    pub train: Vec<Pair>,
    /// Pairs to choose settings by.
    pub valid: Vec<Pair>,
    /// Pairs to report figures of.
    pub test: Vec<Pair>,
    /// Number of connected components that have a pair.
    pub components: usize,
    /// Pairs of the largest component.
    pub largest: usize,
}

/// Rows of queries and documents, and what connects them.
#[derive(Debug)]
pub struct Components {
    pairs: Vec<Pair>,
    /// The number of each row that was named; only those are known, so row numbers may be as large as they like.
    nodes: HashMap<(Side, u64), usize>,
    /// A node's parent in its tree; a root's is itself.
    parents: Vec<usize>,
}

impl Components {
    /// Connects the query and the document of every pair.
    pub fn new(pairs: Vec<Pair>) -> Components {
        let mut components = Components { pairs: Vec::new(), nodes: HashMap::new(), parents: Vec::new() };
        for pair in &pairs {
            let query = components.node(Side::Queries, pair.query);
            let document = components.node(Side::Documents, pair.document);
            components.connect(query, document);
        }
        Components { pairs, ..components }
    }

    /// Connects rows of one side that have an equal label in `path`: line `i` holds the label of row `i - 1`, an empty line
    /// is a row without one. Labels of several files are different things.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` for a label that is not text or has more than 64 KiB, and for fewer lines than the pairs name
    /// rows.
    pub fn connect_groups(&mut self, side: Side, path: &Path) -> Result<()> {
        let mut lines = Lines::open(path, LONGEST)?;
        let mut first_of: HashMap<String, usize> = HashMap::new();
        let mut row = 0;
        while let Some(text) = lines.next_line()? {
            let label = text.trim();
            if !label.is_empty() {
                let node = self.node(side, row);
                match first_of.get(label) {
                    Some(&first) => self.connect(first, node),
                    None => drop(first_of.insert(label.to_string(), node)),
                }
            }
            row += 1;
        }
        match self.last_row(side) {
            Some(last) if last >= row => Err(lines.error(format!(
                "the file ends here, but there are pairs of {} row {last} (from 0): give a line for every row",
                side.one()
            ))),
            _ => Ok(()),
        }
    }

    /// Divides the pairs.
    ///
    /// # Errors
    /// As [`Fractions::check`]; `InvalidParams` if a part got no pair.
    pub fn split(mut self, fractions: Fractions, seed: u64) -> Result<Split> {
        fractions.check()?;
        let (root_of, sizes) = self.sizes();
        let parts = assign(&sizes, fractions, self.pairs.len(), seed);
        let mut split = Split {
            train: Vec::new(),
            valid: Vec::new(),
            test: Vec::new(),
            components: sizes.len(),
            largest: sizes.values().map(|component| component.pairs).max().unwrap_or(0),
        };
        for (pair, root) in self.pairs.iter().zip(root_of) {
            match parts.get(&root) {
                Some(Part::Test) => split.test.push(*pair),
                Some(Part::Valid) => split.valid.push(*pair),
                _ => split.train.push(*pair),
            }
        }
        split.check()?;
        Ok(split)
    }

    /// The root of each pair, and every root's component.
    fn sizes(&mut self) -> (Vec<usize>, HashMap<usize, Component>) {
        let mut sizes: HashMap<usize, Component> = HashMap::new();
        let mut roots = Vec::with_capacity(self.pairs.len());
        for at in 0..self.pairs.len() {
            let query = self.pairs[at].query;
            let node = self.node(Side::Queries, query);
            let root = self.root(node);
            let component = sizes.entry(root).or_insert(Component { smallest: query, pairs: 0 });
            component.smallest = component.smallest.min(query);
            component.pairs += 1;
            roots.push(root);
        }
        (roots, sizes)
    }

    fn last_row(&self, side: Side) -> Option<u64> {
        let rows = self.pairs.iter().map(|pair| match side {
            Side::Queries => pair.query,
            Side::Documents => pair.document,
        });
        rows.max()
    }

    fn node(&mut self, side: Side, row: u64) -> usize {
        let next = self.parents.len();
        match self.nodes.entry((side, row)) {
            Entry::Occupied(node) => *node.get(),
            Entry::Vacant(place) => {
                self.parents.push(next);
                *place.insert(next)
            }
        }
    }

    /// The root of a node's tree; the way there is halved for the next one who takes it.
    fn root(&mut self, mut node: usize) -> usize {
        while self.parents[node] != node {
            self.parents[node] = self.parents[self.parents[node]];
            node = self.parents[node];
        }
        node
    }

    fn connect(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b)] = a.min(b);
    }
}

impl Side {
    fn one(self) -> &'static str {
        match self {
            Side::Queries => "query",
            Side::Documents => "document",
        }
    }
}

/// A connected component that has a pair.
#[derive(Debug)]
struct Component {
    /// Its smallest row of a query: what it is drawn by, whatever order the pairs stand in.
    smallest: u64,
    pairs: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Train,
    Valid,
    Test,
}

/// The part of each component.
fn assign(sizes: &HashMap<usize, Component>, fractions: Fractions, pairs: usize, seed: u64) -> HashMap<usize, Part> {
    let mut order: Vec<(u64, u64, usize)> = sizes
        .iter()
        .map(|(&root, component)| (Rng::stream(seed, component.smallest).next_u64(), component.smallest, root))
        .collect();
    order.sort_unstable();
    let (test, valid) = (fractions.test * pairs as f64, (fractions.test + fractions.valid) * pairs as f64);
    let mut before = 0;
    let mut parts = HashMap::with_capacity(order.len());
    for (_, _, root) in order {
        let middle = before as f64 + sizes[&root].pairs as f64 / 2.0;
        let part = match middle {
            at if at < test => Part::Test,
            at if at < valid => Part::Valid,
            _ => Part::Train,
        };
        parts.insert(root, part);
        before += sizes[&root].pairs;
    }
    parts
}

impl Fractions {
    /// Refuses fractions that leave a part without a share.
    ///
    /// # Errors
    /// `InvalidParams`.
    pub fn check(&self) -> Result<()> {
        for (name, fraction) in [("valid", self.valid), ("test", self.test)] {
            if !(fraction > 0.0 && fraction < 1.0) {
                return Err(Error::params(name, format!("{fraction} is not between 0 and 1, as a share must be")));
            }
        }
        if self.valid + self.test >= 1.0 {
            let reason = format!("{} and {} for test leave nothing to train on; lower one", self.valid, self.test);
            return Err(Error::params("valid", reason));
        }
        Ok(())
    }
}

impl Split {
    /// The parts by the names of their files.
    pub fn parts(&self) -> [(&'static str, &[Pair]); 3] {
        [("train", &self.train), ("valid", &self.valid), ("test", &self.test)]
    }

    /// Pairs of all parts.
    pub fn pairs(&self) -> usize {
        self.train.len() + self.valid.len() + self.test.len()
    }

    /// Writes `train.pairs.tsv`, `valid.pairs.tsv` and `test.pairs.tsv` into `dir`, which is made if it is not there. All
    /// three are written beside their places first, so that a full disk leaves those that are there alone.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&self, vfs: &dyn Vfs, dir: &Path) -> Result<()> {
        vfs.create_dir_all(dir)?;
        let name = |part: &str, ending: &str| dir.join(format!("{part}.pairs.tsv{ending}"));
        for (part, pairs) in self.parts() {
            let text: String = pairs.iter().map(|pair| format!("{}\t{}\n", pair.query, pair.document)).collect();
            let mut file = vfs.create(&name(part, ".new"))?;
            file.write_all(text.as_bytes())?;
            file.sync()?;
        }
        for (part, _) in self.parts() {
            vfs.rename(&name(part, ".new"), &name(part, ""))?;
        }
        vfs.sync_dir(dir)
    }

    /// Refuses a split with an empty part: components are whole, so few or large ones may not fit the fractions.
    fn check(&self) -> Result<()> {
        let found =
            format!("of {} pairs in {} components, the largest of {}", self.pairs(), self.components, self.largest);
        let empty = |name, remedy| Err(Error::params(name, format!("that part got no pair, {found}: {remedy}")));
        if self.test.is_empty() {
            empty("test", "raise the fraction --test, or connect less by groups")
        } else if self.valid.is_empty() {
            empty("valid", "raise the fraction --valid, or connect less by groups")
        } else if self.train.is_empty() {
            empty("train", "lower the fractions --valid and --test, or connect less by groups")
        } else {
            Ok(())
        }
    }
}
