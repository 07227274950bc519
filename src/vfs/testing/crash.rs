//! A file system that remembers in which order it was told things, to show what a power failure would leave of them.
//!
//! Every operation is logged and done at once on a [`MemoryVfs`]. [`CrashVfs::after_crash`] then replays the first `n`
//! operations as *effects*: a name entered in or removed from a directory, or bytes written to a file. An effect is
//! durable once its file (for bytes) or its directory (for names) has been synced; of the rest, [`Survival`] says which
//! survive. This is stricter than journalling file systems are in practice: a name may survive without the bytes, a
//! rename without the creation before it, and any 4 KiB of a write without its neighbours.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::vfs::memory::write_at;
use crate::vfs::{MemoryVfs, ReadFile, Vfs, WriteFile};

/// Which operations that were not synced survive the crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// None of them.
    None,
    /// All of them.
    All,
    /// Each by the toss of a coin with this seed; writes are tossed for in pieces of 4 KiB.
    Random(u64),
}

/// What was done, in order. Files are named by the number of their opening, for a rename may come between writes.
enum Op {
    Create { path: PathBuf, file: usize },
    Append { path: PathBuf, file: usize },
    Write { file: usize, offset: u64, bytes: Vec<u8> },
    Sync { file: usize },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    CreateDir { path: PathBuf },
    SyncDir { path: PathBuf },
}

#[derive(Default)]
struct Log {
    ops: Vec<Op>,
    files: usize,
}

/// Records every change, so that [`after_crash`](Self::after_crash) can say what a crash would have left. Paths are
/// absolute. Clones share the record.
#[derive(Clone)]
pub struct CrashVfs {
    live: MemoryVfs,
    base: Arc<Vec<(PathBuf, Option<Vec<u8>>)>>,
    log: Arc<Mutex<Log>>,
}

impl CrashVfs {
    /// Starts from what `base` holds now, all of it durable.
    pub fn new(base: &MemoryVfs) -> CrashVfs {
        let snapshot = base.snapshot();
        CrashVfs { live: restore(&snapshot), base: Arc::new(snapshot), log: Arc::default() }
    }

    /// Changes made so far; reads do not count.
    pub fn operations(&self) -> usize {
        self.log().ops.len()
    }

    /// The file system as found after a crash that came when `operations` changes had been made.
    pub fn after_crash(&self, operations: usize, survival: Survival) -> MemoryVfs {
        let mut disk = Disk::new(&self.base);
        for op in &self.log().ops[..operations] {
            disk.replay(op);
        }
        restore(&disk.survivors(survival))
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_file(&self) -> usize {
        let mut log = self.log();
        log.files += 1;
        log.files
    }

    fn record(&self, op: Op) {
        self.log().ops.push(op);
    }
}

fn restore(snapshot: &[(PathBuf, Option<Vec<u8>>)]) -> MemoryVfs {
    let vfs = MemoryVfs::new();
    for (path, content) in snapshot {
        match content {
            Some(bytes) => vfs.put(path, bytes),
            None => vfs.create_dir_all(path),
        }
        .expect("a snapshot names each path once, as a file or as a directory");
    }
    vfs
}

impl Vfs for CrashVfs {
    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let inner = self.live.create(path)?;
        let file = self.next_file();
        self.record(Op::Create { path: path.into(), file });
        Ok(Box::new(CrashWriteFile { inner, end: 0, file, vfs: self.clone() }))
    }

    fn open_append(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let (end, inner) = (self.live.len(path)?, self.live.open_append(path)?);
        let file = self.next_file();
        self.record(Op::Append { path: path.into(), file });
        Ok(Box::new(CrashWriteFile { inner, end, file, vfs: self.clone() }))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn ReadFile>> {
        self.live.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.live.rename(from, to)?;
        self.record(Op::Rename { from: from.into(), to: to.into() });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.live.remove_file(path)?;
        self.record(Op::Remove { path: path.into() });
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        // Deepest first, each an operation of its own: a crash may come in between.
        let below: Vec<PathBuf> =
            self.live.snapshot().into_iter().map(|(name, _)| name).filter(|name| name.starts_with(path)).collect();
        self.live.remove_dir_all(path)?;
        for name in below.into_iter().rev() {
            self.record(Op::Remove { path: name });
        }
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let missing: Vec<&Path> = path.ancestors().filter(|dir| matches!(self.live.exists(dir), Ok(false))).collect();
        self.live.create_dir_all(path)?;
        for dir in missing.into_iter().rev() {
            self.record(Op::CreateDir { path: dir.into() });
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.live.sync_dir(path)?;
        self.record(Op::SyncDir { path: path.into() });
        Ok(())
    }

    fn list(&self, path: &Path) -> Result<Vec<PathBuf>> {
        self.live.list(path)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.live.exists(path)
    }

    fn len(&self, path: &Path) -> Result<u64> {
        self.live.len(path)
    }
}

struct CrashWriteFile {
    inner: Box<dyn WriteFile>,
    end: u64,
    file: usize,
    vfs: CrashVfs,
}

impl WriteFile for CrashWriteFile {
    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all_at(self.end, bytes)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn write_all_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.inner.write_all_at(offset, bytes)?;
        self.vfs.record(Op::Write { file: self.file, offset, bytes: bytes.to_vec() });
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.inner.sync()?;
        self.vfs.record(Op::Sync { file: self.file });
        Ok(())
    }
}

/// Number of a file or directory, whatever its name is at the moment. 0 is the root.
type NodeId = usize;

const PIECE: usize = 4096;

#[derive(Clone)]
enum Node {
    File(Vec<u8>),
    Dir(BTreeMap<OsString, NodeId>),
}

/// A change to one file or to the names in one directory.
enum Effect {
    Link { dir: NodeId, name: OsString, node: NodeId },
    Unlink { dir: NodeId, name: OsString },
    Move { from: NodeId, name: OsString, to: NodeId, new_name: OsString, node: NodeId },
    Truncate { file: NodeId },
    Data { file: NodeId, offset: u64, bytes: Vec<u8> },
}

/// The replay: names as a running program sees them, and the effects in order with whether each is durable.
struct Disk {
    base: Vec<Node>,
    /// `base` with all effects so far, for looking up paths; the contents of files are not kept up to date here.
    live: Vec<Node>,
    effects: Vec<(Effect, bool)>,
    /// The node of each file opened for writing.
    opened: BTreeMap<usize, NodeId>,
}

impl Disk {
    fn new(snapshot: &[(PathBuf, Option<Vec<u8>>)]) -> Disk {
        let mut disk = Disk {
            base: Vec::new(),
            live: vec![Node::Dir(BTreeMap::new())],
            effects: Vec::new(),
            opened: BTreeMap::new(),
        };
        for (path, content) in snapshot {
            disk.link(path, content.clone().map_or_else(|| Node::Dir(BTreeMap::new()), Node::File));
        }
        disk.base = disk.live.clone();
        disk.effects.clear();
        disk
    }

    fn replay(&mut self, op: &Op) {
        match op {
            Op::Create { path, file } => {
                let node = match self.find(path) {
                    Some(node) => {
                        self.effects.push((Effect::Truncate { file: node }, false));
                        node
                    }
                    None => self.link(path, Node::File(Vec::new())),
                };
                self.opened.insert(*file, node);
            }
            Op::Append { path, file } => {
                let node = self.find(path).expect("a file that was opened exists");
                self.opened.insert(*file, node);
            }
            Op::Write { file, offset, bytes } => {
                for (piece, start) in bytes.chunks(PIECE).zip((*offset..).step_by(PIECE)) {
                    let effect = Effect::Data { file: self.opened[file], offset: start, bytes: piece.to_vec() };
                    self.effects.push((effect, false));
                }
            }
            Op::Sync { file } => self.sync(self.opened[file]),
            Op::SyncDir { path } => {
                let dir = self.find(path).expect("a directory that was synced exists");
                self.sync(dir);
            }
            Op::Rename { from, to } => {
                let node = self.find(from).expect("what was renamed exists");
                let ((from, name), (to, new_name)) = (self.place(from), self.place(to));
                self.change(Effect::Move { from, name, to, new_name, node });
            }
            Op::Remove { path } => {
                let (dir, name) = self.place(path);
                self.change(Effect::Unlink { dir, name });
            }
            Op::CreateDir { path } => {
                self.link(path, Node::Dir(BTreeMap::new()));
            }
        }
    }

    /// Marks the effects on one file, or on the names of one directory, as durable.
    fn sync(&mut self, synced: NodeId) {
        for (effect, durable) in &mut self.effects {
            *durable |= match effect {
                Effect::Link { dir, .. } | Effect::Unlink { dir, .. } => *dir == synced,
                Effect::Move { to, .. } => *to == synced,
                Effect::Truncate { file } | Effect::Data { file, .. } => *file == synced,
            };
        }
    }

    fn link(&mut self, path: &Path, node: Node) -> NodeId {
        let (dir, name) = self.place(path);
        let id = self.live.len();
        // The node itself is there from the start: without a name in a directory nothing can reach it.
        self.base.push(match &node {
            Node::File(_) => Node::File(Vec::new()),
            Node::Dir(_) => Node::Dir(BTreeMap::new()),
        });
        self.live.push(node);
        self.change(Effect::Link { dir, name, node: id });
        id
    }

    fn change(&mut self, effect: Effect) {
        apply(&mut self.live, &effect);
        self.effects.push((effect, false));
    }

    fn find(&self, path: &Path) -> Option<NodeId> {
        path.components().filter(|part| matches!(part, Component::Normal(_))).try_fold(0, |node, part| {
            match &self.live[node] {
                Node::Dir(names) => names.get(part.as_os_str()).copied(),
                Node::File(_) => None,
            }
        })
    }

    /// The directory of a path and its name there.
    fn place(&self, path: &Path) -> (NodeId, OsString) {
        let dir = self.find(path.parent().unwrap_or(Path::new(""))).expect("the parent directory exists");
        (dir, path.file_name().expect("a path that names something").to_owned())
    }

    /// The base with the durable effects and those of the others that survive.
    fn survivors(&self, survival: Survival) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let mut coin = Coin(if let Survival::Random(seed) = survival { seed } else { 0 });
        let mut nodes = self.base.clone();
        for (effect, durable) in &self.effects {
            let lucky = match survival {
                Survival::None => false,
                Survival::All => true,
                Survival::Random(_) => coin.toss(),
            };
            if *durable || lucky {
                apply(&mut nodes, effect);
            }
        }
        let mut found = Vec::new();
        walk(&nodes, 0, Path::new("/"), &mut found);
        found
    }
}

fn apply(nodes: &mut [Node], effect: &Effect) {
    match effect {
        Effect::Link { dir, name, node } => {
            names(nodes, *dir).insert(name.clone(), *node);
        }
        Effect::Unlink { dir, name } => {
            names(nodes, *dir).remove(name);
        }
        Effect::Move { from, name, to, new_name, node } => {
            // The name may have been given to another file since, if what happened before was lost.
            if names(nodes, *from).get(name) == Some(node) {
                names(nodes, *from).remove(name);
            }
            names(nodes, *to).insert(new_name.clone(), *node);
        }
        Effect::Truncate { file } => nodes[*file] = Node::File(Vec::new()),
        Effect::Data { file, offset, bytes } => match &mut nodes[*file] {
            Node::File(content) => write_at(content, *offset, bytes),
            Node::Dir(_) => unreachable!("only files are written to"),
        },
    }
}

fn names(nodes: &mut [Node], dir: NodeId) -> &mut BTreeMap<OsString, NodeId> {
    match &mut nodes[dir] {
        Node::Dir(names) => names,
        Node::File(_) => unreachable!("only directories have names in them"),
    }
}

fn walk(nodes: &[Node], node: NodeId, path: &Path, found: &mut Vec<(PathBuf, Option<Vec<u8>>)>) {
    match &nodes[node] {
        Node::File(content) => found.push((path.into(), Some(content.clone()))),
        Node::Dir(names) => {
            if node != 0 {
                found.push((path.into(), None));
            }
            for (name, child) in names {
                walk(nodes, *child, &path.join(name), found);
            }
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014), one bit at a time.
struct Coin(u64);

impl Coin {
    fn toss(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) & 1 == 1
    }
}
