//! The working table: who is called what, who is below whom, and which ad groups a patch concerns.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::epoch::{Entry, Epoch, Settled, Standing};
use super::patch::{Field, Level, Patch, check_flight};
use crate::error::{Error, Result};

/// Entities of one level: an [`Owner`](super::Owner) keeps one bit for itself.
const MAX_ENTITIES: usize = (1 << 31) - 1;
/// Room that is kept for patches which were checked and are not applied yet.
const ROOM: usize = 1 << 24;

/// First and last second of a flight, as far as they are said.
type Flight = (Option<i64>, Option<i64>);

/// What patches that were checked, and will be applied together, say before the next of them.
#[derive(Default)]
pub struct Earlier {
    /// Ads whose parents they name.
    named: BTreeSet<u64>,
    /// Flights as they leave them.
    flights: HashMap<(Level, u64), Flight>,
}

pub(super) struct Table {
    /// Ordinals by level and id.
    ordinals: [HashMap<u64, u32>; 4],
    /// Ordinals of the campaigns of each advertiser, and of the ad groups of each campaign.
    children: [Vec<BTreeSet<u32>>; 2],
    /// Ordinals, with repetitions, of advertisers, campaigns and ad groups whose ad groups' standing is to be worked out anew.
    stale: [Vec<u32>; 3],
    epoch: Epoch,
}

impl Table {
    pub(super) fn new() -> Table {
        let mut table = Table {
            ordinals: Default::default(),
            children: [vec![BTreeSet::new()], vec![BTreeSet::new()]],
            stale: Default::default(),
            epoch: Epoch::new(),
        };
        // 0 is the id of nobody, but among ads, where it is a key like others.
        table.ordinals[..3].iter_mut().for_each(|level| {
            level.insert(0, 0);
        });
        table
    }

    pub(super) fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    pub(super) fn ordinal(&self, level: Level, id: u64) -> Option<u32> {
        self.ordinals[level as usize].get(&id).copied()
    }

    /// Checks patches that will be applied together, in this order.
    ///
    /// # Errors
    /// The first that cannot be applied.
    pub(super) fn check_all(&self, patches: &[Patch]) -> Result<()> {
        let mut earlier = Earlier::default();
        patches.iter().try_for_each(|patch| self.check(patch, &mut earlier))
    }

    /// Checks a patch after `earlier` ones, and notes it among them if it is good.
    pub(super) fn check(&self, patch: &Patch, earlier: &mut Earlier) -> Result<()> {
        patch.check()?;
        let level = patch.level as usize;
        let entry = self.ordinal(patch.level, patch.id).and_then(|ordinal| self.epoch.entries[level].get(ordinal));
        if entry.is_none() {
            self.check_new(patch, earlier)?;
        }
        if (patch.start, patch.end) != (Field::Keep, Field::Keep) {
            let known = || entry.map_or((None, None), |entry| (entry.record.start(), entry.record.end()));
            let (start, end) = earlier.flights.get(&(patch.level, patch.id)).copied().unwrap_or_else(known);
            let flight = (patch.start.after(start), patch.end.after(end));
            check_flight(flight.0, flight.1)?;
            earlier.flights.insert((patch.level, patch.id), flight);
        }
        if patch.level == Level::Ad && patch.parent != Field::Keep {
            earlier.named.insert(patch.id);
        }
        Ok(())
    }

    /// Checks the first patch of an entity.
    fn check_new(&self, patch: &Patch, earlier: &Earlier) -> Result<()> {
        if patch.level == Level::Ad && patch.parent == Field::Keep && !earlier.named.contains(&patch.id) {
            let reason = format!("ad {} has no record yet; name its ad group, or null for none", patch.id);
            return Err(Error::params("parent", reason));
        }
        match self.epoch.entries.iter().any(|level| level.len() + ROOM >= MAX_ENTITIES) {
            true => Err(Error::params(
                "id",
                format!("{}: the table is full at {MAX_ENTITIES} entities of a level", patch.id),
            )),
            false => Ok(()),
        }
    }

    /// Applies a patch that was checked; standings follow with [`Table::publish`].
    pub(super) fn apply(&mut self, patch: &Patch) {
        let level = patch.level as usize;
        let ordinal = self.intern(patch.level, patch.id);
        let parent = match (patch.parent, patch.level.parent()) {
            (Field::Keep, _) | (_, None) => None,
            (Field::Clear, Some(_)) => Some(0),
            (Field::Set(id), Some(above)) => Some(self.intern(above, id)),
        };
        let entry = self.epoch.entries[level].get_mut(ordinal);
        entry.record.merge(patch);
        entry.described = true;
        if let Some(parent) = parent {
            let before = std::mem::replace(&mut entry.parent, parent);
            self.move_child(patch.level, ordinal, before, parent);
        }
        if let Some(stale) = self.stale.get_mut(level) {
            stale.push(ordinal);
        }
    }

    fn move_child(&mut self, level: Level, child: u32, from: u32, to: u32) {
        let children = match level {
            Level::Campaign => &mut self.children[0],
            Level::AdGroup => &mut self.children[1],
            // Ads look up to their ad group when they are asked for, so none need to be found from above.
            Level::Advertiser | Level::Ad => return,
        };
        children[from as usize].remove(&child);
        // Nobody changes, so its children need not be known.
        if to != 0 {
            children[to as usize].insert(child);
        }
    }

    /// The ordinal of an entity, which is made if there is none yet.
    ///
    /// # Panics
    /// At 2^31 entities of a level, which would take hundreds of gigabytes.
    pub(super) fn intern(&mut self, level: Level, id: u64) -> u32 {
        if let Some(ordinal) = self.ordinal(level, id) {
            return ordinal;
        }
        let entries = &mut self.epoch.entries[level as usize];
        assert!(entries.len() < MAX_ENTITIES, "more than {MAX_ENTITIES} entities of level {level}");
        let ordinal = entries.len() as u32;
        entries.push(Entry::new(id));
        self.ordinals[level as usize].insert(id, ordinal);
        if let Some(children) = self.children.get_mut(level as usize) {
            children.push(BTreeSet::new());
        }
        if level == Level::AdGroup {
            self.epoch.standings.push(Settled::new(&Standing { ad_group: id, ..Standing::OPEN }));
        }
        ordinal
    }

    /// Works what was applied into the standings of ad groups.
    fn settle(&mut self) {
        let [mut advertisers, mut campaigns, mut groups] = std::mem::take(&mut self.stale);
        sort_unique(&mut advertisers);
        campaigns.extend(advertisers.iter().flat_map(|&advertiser| &self.children[0][advertiser as usize]));
        sort_unique(&mut campaigns);
        groups.extend(campaigns.iter().flat_map(|&campaign| &self.children[1][campaign as usize]));
        sort_unique(&mut groups);
        for group in groups {
            *self.epoch.standings.get_mut(group) = Settled::new(&self.resolve(group));
        }
    }

    fn resolve(&self, group: u32) -> Standing {
        let entry = |level: Level, ordinal| {
            self.epoch.entries[level as usize].get(ordinal).expect("ordinals are handed out here")
        };
        let group = entry(Level::AdGroup, group);
        let campaign = entry(Level::Campaign, group.parent);
        let advertiser = entry(Level::Advertiser, campaign.parent);
        Standing::OPEN
            .under(Level::Advertiser, advertiser)
            .under(Level::Campaign, campaign)
            .under(Level::AdGroup, group)
    }

    /// The state with all that was applied, as epoch `number`.
    pub(super) fn publish(&mut self, number: u64) -> Arc<Epoch> {
        self.settle();
        self.epoch.number = number;
        Arc::new(self.epoch.clone())
    }
}

fn sort_unique(ordinals: &mut Vec<u32>) {
    ordinals.sort_unstable();
    ordinals.dedup();
}
