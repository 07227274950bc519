//! Versions of a collection: compacted, staged, activated and rolled back, with disks that fail, and after restarts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bigrain::ads::control::{Field, Level, Patch, Reason, Status};
use bigrain::ads::{Collection, CollectionOptions, LowSpace, Registry, VersionState};
use bigrain::build::BuildSpec;
use bigrain::calibrate::write_canary;
use bigrain::error::{Error, Result};
use bigrain::live::{Change, Document};
use bigrain::search::{Scratch, SearchParams};
use bigrain::train::{Silent, Watch};
use bigrain::types::Key;
use bigrain::vfs::testing::{CrashVfs, Fault, FaultyVfs, Survival};
use bigrain::vfs::{MemoryVfs, RealVfs, Vfs};
use tempfile::TempDir;

use crate::common::{Data, ad_options, ad_query, small};

const DIM: usize = 8;
const ROWS: usize = 200;

/// A folder with an index of ads 0 to [`ROWS`] and, beside it, a state folder.
struct Place {
    dir: TempDir,
    data: Data,
}

impl Place {
    fn new() -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap(), data: Data::clustered(ROWS + 50, DIM, 3) };
        place.build("base", ROWS);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn vector(&self, row: usize) -> Vec<f32> {
        self.data.rows[row * DIM..][..DIM].to_vec()
    }

    /// Builds an index of the first rows, ten to an ad group from 1 on, in the folder of versions.
    fn build(&self, name: &str, rows: usize) {
        let input = Data { dim: DIM, rows: self.data.rows[..rows * DIM].to_vec(), queries: Vec::new() };
        let records = self.path("records.jsonl");
        let record = |row: usize| format!("{{\"ad_group\": {}}}\n", 1 + row / 10);
        std::fs::write(&records, (0..rows).map(record).collect::<String>()).unwrap();
        let output = self.path("versions").join(name);
        let spec = BuildSpec { attributes: Some(records), ..small(&input.write(self.dir.path()), &output) };
        bigrain::build::build(&spec, &Silent).unwrap();
    }

    fn options(&self) -> CollectionOptions {
        let (state, versions) = (Some(self.path("state")), Some(self.path("versions")));
        CollectionOptions { state, versions, canary_recall: 0.5, ..ad_options() }
    }

    fn open(&self) -> Arc<Collection> {
        Collection::open(&self.path("versions/base"), self.options()).unwrap()
    }

    fn open_on(&self, vfs: &FaultyVfs, options: CollectionOptions) -> Result<Arc<Collection>> {
        Collection::open_on(Arc::new(vfs.clone()), &self.path("versions/base"), options)
    }

    fn upsert(&self, key: Key) -> Change {
        Change::Upsert(Document {
            key,
            vector: self.vector(ROWS),
            views: Vec::new(),
            record: "{\"ad_group\": 3}".into(),
        })
    }

    /// Folders that compaction made, by name.
    fn made(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("state/versions")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn registry(&self) -> Registry {
        Registry::read(&RealVfs, &self.path("state")).unwrap().unwrap()
    }
}

/// A disk that works until it is told otherwise, and then fails altogether.
fn breakable() -> FaultyVfs {
    FaultyVfs::starting_at(Arc::new(RealVfs), u64::MAX, Fault::Error(std::io::ErrorKind::StorageFull))
}

fn keys(collection: &Arc<Collection>, vector: &[f32]) -> Vec<Key> {
    let query = ad_query(vector, ROWS + 50, SearchParams { exact: true, ..SearchParams::default() });
    let pinned = collection.pin(None, 0);
    let found = pinned.view().search(&query, &mut Scratch::default()).unwrap();
    found.hits.iter().map(|hit| hit.key).collect()
}

fn pause(level: Level, id: u64) -> Patch {
    Patch { status: Field::Set(Status::Paused), ..Patch::new(level, id) }
}

fn active_path(collection: &Collection) -> PathBuf {
    collection.active().at.path.clone()
}

#[test]
fn compacting_without_a_write_in_between_leaves_the_version_before_alone() {
    let place = Place::new();
    place.build("other", ROWS - 20);
    let collection = place.open();
    collection.change_ads(vec![place.upsert(5_000)]).unwrap();
    collection.compact(&Silent).unwrap().unwrap();
    let first = active_path(&collection);
    let other = collection.stage("other").unwrap();
    collection.activate(&other.version, None).unwrap();
    collection.compact(&Silent).unwrap().unwrap();
    let second = active_path(&collection);
    assert_ne!(first, second);
    assert_eq!(keys(&collection, &place.vector(1)).len(), ROWS - 20 + 1);
    // Back to what it was made of, and once more: the same index in another folder.
    collection.roll_back().unwrap();
    collection.compact(&Silent).unwrap().unwrap();
    assert_eq!(keys(&collection, &place.vector(1)).len(), ROWS - 20 + 1);
    let active = active_path(&collection);
    drop(collection);
    let collection = place.open();
    assert_eq!((active_path(&collection), keys(&collection, &place.vector(1)).len()), (active.clone(), ROWS - 20 + 1));
    let name = active.file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(place.made(), [name], "nothing else is left");
    collection.roll_back().unwrap();
}

#[test]
fn a_compaction_that_is_refused_leaves_nothing() {
    let place = Place::new();
    write_canary(&RealVfs, &place.path("versions/base"), &place.data.queries).unwrap();
    place.build("staged", ROWS - 20);
    write_canary(&RealVfs, &place.path("versions/staged"), &place.data.queries).unwrap();
    let options = CollectionOptions { canary_recall: 1.1, ..place.options() };
    let collection = Collection::open(&place.path("versions/base"), options).unwrap();
    collection.change_ads(vec![place.upsert(5_000)]).unwrap();
    let active = collection.active().at.id.clone();
    for _ in 0..2 {
        let refused = collection.compact(&Silent).unwrap_err().to_string();
        assert!(refused.contains("canary"), "{refused}");
        assert_eq!((place.made().len(), collection.versions().len()), (0, 1));
    }
    let staged = collection.stage("staged").unwrap();
    assert_eq!((staged.state, collection.versions().len()), (VersionState::Refused, 2));
    assert!(collection.activate(&staged.version, None).unwrap_err().to_string().contains("canary"));
    assert_eq!(collection.active().at.id, active);
}

#[test]
fn a_compaction_that_fails_leaves_nothing_wherever_it_fails() {
    let healthy = FaultyVfs::once(Arc::new(RealVfs), u64::MAX, Fault::Partial);
    let place = Place::new();
    write_canary(&RealVfs, &place.path("versions/base"), &place.data.queries).unwrap();
    let job = |vfs: &FaultyVfs| {
        let _ = std::fs::remove_dir_all(place.path("state"));
        let collection = place.open_on(vfs, place.options()).unwrap();
        collection.change_ads(vec![place.upsert(5_000)]).unwrap();
        (vfs.operations(), collection.compact(&Silent).is_ok(), collection)
    };
    let (first, _, _) = job(&healthy);
    let (mut failed, step) = (0, ((healthy.operations() - first) / 15).max(1) as usize);
    for n in (first..healthy.operations()).step_by(step) {
        let vfs = FaultyVfs::once(Arc::new(RealVfs), n, Fault::Error(std::io::ErrorKind::StorageFull));
        let (_, compacted, collection) = job(&vfs);
        let open = collection.versions().len();
        let is_clean = place.made().len() == usize::from(compacted) && open == 1 + usize::from(compacted);
        // Where the very removal fails, or the registry is on disk already, it is left to the next start.
        assert!(is_clean || n + 20 > healthy.operations(), "fault {n}: {:?}, {open} open", place.made());
        failed += usize::from(!compacted);
        assert!(keys(&collection, &place.vector(1)).contains(&5_000));
        drop(collection);
        let collection = place.open();
        assert!(keys(&collection, &place.vector(1)).contains(&5_000), "fault {n}");
        assert!(place.made().len() <= 1, "fault {n}: {:?}", place.made());
    }
    assert!(failed > 5, "{failed}");
}

#[test]
fn what_a_killed_compaction_left_is_gone_after_a_restart() {
    let place = Place::new();
    let collection = place.open();
    collection.change_ads(vec![place.upsert(5_000)]).unwrap();
    collection.compact(&Silent).unwrap();
    let before = place.made();
    drop(collection);
    for name in ["seq-00000000000000000009", "seq-00000000000000000001-aaaaaaaa-7/.build/files"] {
        std::fs::create_dir_all(place.path("state/versions").join(name)).unwrap();
    }
    std::fs::create_dir_all(place.path("state/versions/mine")).unwrap();
    let collection = place.open();
    let expected: Vec<String> = ["mine".to_string()].into_iter().chain(before).collect();
    assert_eq!(place.made(), expected, "but what others put there stays");
    assert!(keys(&collection, &place.vector(1)).contains(&5_000));
}

#[test]
fn a_roll_back_stands_until_somebody_decides_otherwise() {
    let place = Place::new();
    let options = CollectionOptions { compact_changes: 1, ..place.options() };
    let open = || Collection::open(&place.path("versions/base"), options.clone()).unwrap();
    let collection = open();
    let base = collection.active().at.id.clone();
    collection.change_ads(vec![place.upsert(5_000)]).unwrap();
    let made = collection.compact(&Silent).unwrap().unwrap();
    assert_eq!(collection.roll_back().unwrap(), base);
    assert!(place.registry().rolled_back);
    drop(collection);
    let collection = open();
    let failures = Arc::new(Mutex::new(Vec::new()));
    let told = failures.clone();
    collection.start_upkeep(move |what, error| told.lock().unwrap().push(format!("{what}: {error}"))).unwrap();
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(collection.active().at.id, base, "the upkeep compacts nothing");
    assert!(failures.lock().unwrap().is_empty(), "{failures:?}");
    assert_ne!(collection.compact(&Silent).unwrap(), None);
    assert!(!place.registry().rolled_back);
    assert_eq!(collection.active().at.id, made, "the same rows, the same version");
}

#[test]
fn another_index_in_the_place_of_the_active_one_is_refused_and_a_lost_challenger_is_not() {
    let place = Place::new();
    place.build("other", ROWS - 20);
    place.build("third", ROWS - 30);
    let collection = place.open();
    let other = collection.stage("other").unwrap();
    let third = collection.stage("third").unwrap();
    collection.activate(&other.version, None).unwrap();
    collection.split(Some((&third.version, 0.5))).unwrap();
    drop(collection);
    let collection = place.open();
    assert!(collection.others().1.is_some() && collection.notes().is_empty(), "{:?}", collection.notes());
    drop(collection);
    place.build("third", ROWS - 40);
    let collection = place.open();
    assert_eq!(collection.others().1, None);
    assert!(collection.notes()[0].contains(&third.version), "{:?}", collection.notes());
    drop(collection);
    std::fs::remove_dir_all(place.path("versions/third")).unwrap();
    assert_eq!(place.open().notes().len(), 1);
    place.build("base", ROWS - 10);
    assert!(matches!(place.open().roll_back(), Err(Error::Mismatch { .. })));
    place.build("other", ROWS - 40);
    let refused = Collection::open(&place.path("versions/base"), place.options()).err().unwrap().to_string();
    assert!(refused.contains(&other.version) && refused.contains("versions.json"), "{refused}");
}

#[test]
fn a_version_that_was_never_told_of_changes_says_so() {
    let place = Place::new();
    place.build("late", ROWS - 20);
    let collection = place.open();
    assert_eq!(collection.stage("late").unwrap().note, None, "the journal has all changes");
    drop(collection);
    let collection = place.open();
    for key in [5_000, 5_001] {
        collection.change_ads(vec![place.upsert(key), Change::Delete(7)]).unwrap();
        collection.compact(&Silent).unwrap().unwrap();
    }
    let note = collection.stage("late").unwrap().note.unwrap();
    assert!(note.contains("number 2"), "{note}");
}

#[test]
fn writes_end_before_the_disk_is_full_and_go_on_when_there_is_room() {
    let place = Place::new();
    place.build("other", ROWS - 20);
    let vfs = breakable();
    let collection = place.open_on(&vfs, CollectionOptions { least_free: 256 << 20, ..place.options() }).unwrap();
    collection.change_ads(vec![place.upsert(5_000)]).unwrap();
    let base = collection.active().at.id.clone();
    vfs.set_free(100 << 20);
    let refused = [
        collection.change_ads(vec![place.upsert(5_001)]).map(drop),
        collection.patch_control(vec![pause(Level::Campaign, 1)]).map(drop),
        collection.compact(&Silent).map(drop),
    ];
    for refused in refused {
        let Err(Error::Io { path, source }) = refused else { panic!("{refused:?}") };
        assert_eq!((path, source.kind()), (place.path("state"), std::io::ErrorKind::StorageFull));
        assert!(source.get_ref().unwrap().is::<LowSpace>() && source.to_string().contains("100 MiB"), "{source}");
    }
    // What takes no room goes on: an incident is no time to ask for it.
    let other = collection.stage("other").unwrap().version;
    collection.activate(&other, None).unwrap();
    assert_eq!(collection.roll_back().unwrap(), base);
    vfs.set_free(u64::MAX);
    collection.change_ads(vec![place.upsert(5_001)]).unwrap();
    collection.compact(&Silent).unwrap().unwrap();
    assert!(keys(&collection, &place.vector(1)).contains(&5_001));
}

#[test]
fn what_cannot_be_removed_after_a_switch_is_no_error_of_the_switch() {
    let place = Place::new();
    let vfs = breakable();
    let collection = place.open_on(&vfs, place.options()).unwrap();
    collection.change_ads(vec![place.upsert(5_000)]).unwrap();
    collection.compact(&Silent).unwrap();
    // A file where a folder should be cannot be removed as one.
    std::fs::write(place.path("state/versions/seq-file"), "").unwrap();
    collection.roll_back().unwrap();
    let (told, failures) = mpsc::channel();
    let report = move |what, _: &Error| told.send(what).unwrap_or_default();
    collection.start_upkeep(report).unwrap();
    assert_eq!(failures.recv_timeout(Duration::from_secs(60)).unwrap(), "removing what no version needs");
}

/// Stops in the first phase until it is told to go on.
struct Gate {
    reached: mpsc::Sender<()>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Watch for Gate {
    fn begin(&self, _: &'static str, _: u64) {
        let _ = self.reached.send(());
        let _ = self.go_on.lock().unwrap().recv();
    }

    fn advance(&self, _: u64) {}
}

#[test]
fn switching_does_not_wait_for_a_compaction_and_what_it_made_is_dropped() {
    let place = Place::new();
    place.build("other", ROWS - 20);
    let collection = place.open();
    let base = collection.active().at.id.clone();
    let other = collection.stage("other").unwrap().version;
    collection.activate(&other, None).unwrap();
    collection.change_ads(vec![place.upsert(5_000)]).unwrap();
    let (reached, begun) = mpsc::channel();
    let (release, go_on) = mpsc::channel();
    std::thread::scope(|scope| {
        let gate = Gate { reached, go_on: Mutex::new(go_on) };
        let compacting = scope.spawn({
            let collection = collection.clone();
            move || collection.compact(&gate)
        });
        begun.recv().unwrap();
        assert_eq!(collection.roll_back().unwrap(), base);
        collection.split(Some((&other, 0.5))).unwrap();
        collection.split(None).unwrap();
        drop(release);
        assert!(matches!(compacting.join().unwrap(), Err(Error::Mismatch { .. })));
    });
    assert_eq!((collection.active().at.id.clone(), place.made().len()), (base, 0));
    assert!(place.registry().rolled_back);
}

#[test]
fn the_first_patch_of_an_ad_holds_for_its_rows_and_for_fresh_ads() {
    let place = Place::new();
    let collection = place.open();
    collection.change_ads(vec![place.upsert(5_000), place.upsert(5_001)]).unwrap();
    let found = |collection: &Arc<Collection>| keys(collection, &place.vector(1));
    assert!(found(&collection).contains(&5_000));
    let first = |key| Patch { parent: Field::Set(3), ..pause(Level::Ad, key) };
    collection.patch_control(vec![first(5_000), first(7)]).unwrap();
    let after = found(&collection);
    assert!(!after.contains(&5_000) && !after.contains(&7) && after.contains(&5_001));
    // Changed once more it is still the same ad.
    collection.change_ads(vec![place.upsert(5_000)]).unwrap();
    assert!(!found(&collection).contains(&5_000));
    let active = Patch { status: Field::Set(Status::Active), ..Patch::new(Level::Ad, 5_000) };
    collection.patch_control(vec![active]).unwrap();
    assert!(found(&collection).contains(&5_000));
}

#[test]
fn the_ad_group_of_a_fresh_ad_is_known_at_the_first_look() {
    let place = Place::new();
    let collection = place.open();
    let record = "{\"ad_group\": 777}".to_string();
    collection
        .change_ads(vec![Change::Upsert(Document { key: 5_000, vector: place.vector(1), views: Vec::new(), record })])
        .unwrap();
    let pinned = collection.pin(None, 0);
    assert_eq!(pinned.view().ad_group(pinned.snapshot.place(5_000).unwrap()), 777);
    assert_eq!(pinned.view().ad_group(pinned.snapshot.place(15).unwrap()), 2);
}

#[test]
fn an_ad_that_was_described_before_it_came_obeys_its_ad_group() {
    let place = Place::new();
    let collection = place.open();
    let described = Patch { parent: Field::Clear, bid_micros: Field::Set(5), ..Patch::new(Level::Ad, 5_000) };
    collection.patch_control(vec![described]).unwrap();
    collection.patch_control(vec![pause(Level::AdGroup, 3)]).unwrap();
    collection.change_ads(vec![place.upsert(5_000)]).unwrap();
    let pinned = collection.pin(None, 0);
    let standing = pinned.view().standing(pinned.snapshot.place(5_000).unwrap());
    assert_eq!(standing.blocked, Some(Reason::Paused { level: Level::AdGroup, id: 3 }));
    assert!(!keys(&collection, &place.vector(1)).contains(&5_000));
    drop((pinned, collection));
    assert!(!keys(&place.open(), &place.vector(1)).contains(&5_000));
}

#[test]
fn going_back_is_possible_after_a_restart_whatever_failed_since() {
    let place = Place::new();
    let collection = place.open();
    for key in [5_000, 5_001] {
        collection.change_ads(vec![place.upsert(key)]).unwrap();
        collection.compact(&Silent).unwrap().unwrap();
    }
    drop(collection);
    let vfs = breakable();
    let options = CollectionOptions { least_free: 1 << 20, ..place.options() };
    let collection = place.open_on(&vfs, options).unwrap();
    collection.change_ads(vec![place.upsert(5_002)]).unwrap();
    struct Stop;
    impl Watch for Stop {
        fn begin(&self, _: &'static str, _: u64) {}
        fn advance(&self, _: u64) {}
        fn check(&self) -> Result<()> {
            Err(Error::Overloaded(0))
        }
    }
    collection.compact(&Stop).unwrap_err();
    collection.roll_back().unwrap();
    let found = keys(&collection, &place.vector(1));
    assert!([5_000, 5_001, 5_002].iter().all(|key| found.contains(key)));
}

#[test]
fn what_is_acknowledged_outlives_a_crash_of_the_first_start() {
    let place = Place::new();
    let vfs = CrashVfs::new(&MemoryVfs::new());
    let options = CollectionOptions { state: Some("/srv/state".into()), ..place.options() };
    let open = |vfs: Arc<dyn Vfs>| Collection::open_on(vfs, &place.path("versions/base"), options.clone()).unwrap();
    open(Arc::new(vfs.clone())).patch_control(vec![pause(Level::Campaign, 7)]).unwrap();
    let after = open(Arc::new(vfs.after_crash(vfs.operations(), Survival::None)));
    assert_eq!(after.control().entity(Level::Campaign, 7).unwrap().status, Some(Status::Paused));
}

#[test]
fn a_torn_end_of_a_journal_is_told() {
    let place = Place::new();
    let collection = place.open();
    collection.change_ads(vec![place.upsert(5_000)]).unwrap();
    assert_eq!(collection.cuts().count(), 0);
    drop(collection);
    let log = place.path("state/ads/log-00000000000000000001.bg");
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&log, &whole[..whole.len() - 3]).unwrap();
    let collection = place.open();
    let cuts: Vec<_> = collection.cuts().map(|(what, cut)| (what, cut.path.clone())).collect();
    assert_eq!(cuts, [("ads", log)]);
}

#[test]
fn reading_only_leaves_no_file_anywhere() {
    let place = Place::new();
    let before = listing(&place.path("versions/base"));
    let collection =
        Collection::open(&place.path("versions/base"), CollectionOptions { state: None, ..place.options() }).unwrap();
    assert_eq!(keys(&collection, &place.vector(1)).len(), ROWS);
    assert_eq!(listing(&place.path("versions/base")), before);
    assert!(!place.path("state").exists() && !Path::new("/ads/.lock").exists());
}

fn listing(dir: &Path) -> Vec<PathBuf> {
    RealVfs.list(dir).unwrap()
}
