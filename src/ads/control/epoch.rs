//! One state of the control table, immutable: what a request judges all its candidates by.

use serde::Serialize;

use super::chunks::Chunks;
use super::patch::{Budget, Entity, Level, Patch, Status};
use crate::types::Key;

/// Which entity answers for a row: an ad group, or the ad itself where it has a record of its own. An owner means the same
/// in every epoch of a [`Control`](super::Control), but nothing after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(u32);

/// The bit of an [`Owner`] that is an ad.
const AD: u32 = 1 << 31;

impl Owner {
    /// Of a row that belongs to no ad group: always active, without a bid.
    pub const NONE: Owner = Owner(0);

    pub(super) fn group(ordinal: u32) -> Owner {
        Owner(ordinal)
    }

    pub(super) fn ad(ordinal: u32) -> Owner {
        Owner(ordinal | AD)
    }

    /// As four bytes, so that an array of atomic integers can hold one for each row.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// From [`Owner::to_bits`].
    pub fn from_bits(bits: u32) -> Owner {
        Owner(bits)
    }
}

/// Why an ad may not be shown now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// Someone has paused this entity: the ad or one above it, the widest where there are several.
    Paused {
        /// Its level.
        level: Level,
        /// Its id.
        id: u64,
    },
    /// This entity has no money left.
    Budget {
        /// Its level.
        level: Level,
        /// Its id.
        id: u64,
    },
    /// A flight above has not begun.
    NotStarted,
    /// A flight above is over.
    Ended,
    /// The ad got its first record after the request had begun, so that the request's epoch does not know it.
    Unknown,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Paused { level, id } => write!(f, "{level} {id} is paused"),
            Reason::Budget { level, id } => write!(f, "the budget of {level} {id} is exhausted"),
            Reason::NotStarted => f.write_str("its flight has not started"),
            Reason::Ended => f.write_str("its flight has ended"),
            Reason::Unknown => f.write_str("it got its first record after this request had begun"),
        }
    }
}

/// What the whole chain from the advertiser down says about an ad.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// First second of the flight, since 1970: the latest start on the chain; `i64::MIN` where there is none.
    pub from: i64,
    /// First second after the flight: the earliest end on the chain; `i64::MAX` where there is none.
    pub until: i64,
    /// What stops it at any time: [`Reason::Paused`] or [`Reason::Budget`], or [`Reason::Unknown`].
    pub blocked: Option<Reason>,
    /// The bid nearest to the ad, in millionths of the currency; 0 where there is none.
    pub bid_micros: u64,
    /// The predicted click rate nearest to the ad, if there is one.
    pub ctr: Option<f32>,
    /// Id of the advertiser; 0 where it is not known.
    pub advertiser: u64,
    /// Id of the campaign; 0 where it is not known.
    pub campaign: u64,
    /// Id of the ad group; 0 where it is not known.
    pub ad_group: u64,
}

impl Standing {
    /// Of an ad whose record an epoch does not know: it may say that the ad is paused, and the next request will know.
    const UNKNOWN: Standing = Standing { blocked: Some(Reason::Unknown), ..Standing::OPEN };

    /// Of what nobody has said anything about.
    pub(super) const OPEN: Standing = Standing {
        from: i64::MIN,
        until: i64::MAX,
        blocked: None,
        bid_micros: 0,
        ctr: None,
        advertiser: 0,
        campaign: 0,
        ad_group: 0,
    };

    /// Whether the ad may be shown at `now`, in seconds since 1970; if not, why.
    #[inline]
    pub fn eligible(&self, now: i64) -> Result<(), Reason> {
        match self.blocked {
            Some(reason) => Err(reason),
            None if now < self.from => Err(Reason::NotStarted),
            None if now >= self.until => Err(Reason::Ended),
            None => Ok(()),
        }
    }

    /// One step down the chain: what an entity below makes of it.
    #[inline]
    pub(super) fn under(mut self, level: Level, entry: &Entry) -> Standing {
        let said = &entry.record;
        self.from = self.from.max(said.from);
        self.until = self.until.min(said.until);
        self.blocked = self.blocked.or_else(|| said.blocks(level, entry.id));
        self.bid_micros = said.bid().unwrap_or(self.bid_micros);
        self.ctr = said.ctr().or(self.ctr);
        match level {
            Level::Advertiser => self.advertiser = entry.id,
            Level::Campaign => self.campaign = entry.id,
            Level::AdGroup => self.ad_group = entry.id,
            Level::Ad => {}
        }
        self
    }
}

/// A [`Standing`] of an ad group as it is kept: one cache line, since those of a query's candidates lie anywhere.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Settled {
    from: i64,
    until: i64,
    bid_micros: u64,
    advertiser: u64,
    campaign: u64,
    ad_group: u64,
    /// Not a number where there is none.
    ctr: f32,
    /// What stops it: pause or budget, and of which level, whose id is one of those above.
    blocked: Option<(Block, Level)>,
}

const _: () = assert!(size_of::<Settled>() == 64 && size_of::<Entry>() == 64);

#[derive(Clone, Copy)]
enum Block {
    Paused,
    Budget,
}

impl Settled {
    /// Keeps the standing of an ad group: one that neither a flight nor an ad stops.
    pub(super) fn new(standing: &Standing) -> Settled {
        let Standing { from, until, blocked, bid_micros, ctr, advertiser, campaign, ad_group } = *standing;
        let blocked = blocked.and_then(|reason| match reason {
            Reason::Paused { level, .. } => Some((Block::Paused, level)),
            Reason::Budget { level, .. } => Some((Block::Budget, level)),
            Reason::NotStarted | Reason::Ended | Reason::Unknown => None,
        });
        Settled { from, until, bid_micros, advertiser, campaign, ad_group, ctr: ctr.unwrap_or(f32::NAN), blocked }
    }

    #[inline]
    fn standing(&self) -> Standing {
        let Settled { from, until, bid_micros, advertiser, campaign, ad_group, ctr, blocked } = *self;
        let blocked = blocked.map(|(block, level)| {
            let id = match level {
                Level::Advertiser => advertiser,
                Level::Campaign => campaign,
                Level::AdGroup | Level::Ad => ad_group,
            };
            match block {
                Block::Paused => Reason::Paused { level, id },
                Block::Budget => Reason::Budget { level, id },
            }
        });
        let ctr = Some(ctr).filter(|ctr| !ctr.is_nan());
        Standing { from, until, blocked, bid_micros, ctr, advertiser, campaign, ad_group }
    }
}

/// What one entity says of itself, in 32 bytes: what it does not say is a value that changes nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// `i64::MIN` where it is not said.
    from: i64,
    /// `i64::MAX` where it is not said.
    until: i64,
    /// [`NO_BID`] where it is not said.
    bid_micros: u64,
    /// Not a number where it is not said.
    ctr: f32,
    pub(super) status: Option<Status>,
    pub(super) budget: Option<Budget>,
}

const NO_BID: u64 = u64::MAX;

impl Record {
    const EMPTY: Record =
        Record { from: i64::MIN, until: i64::MAX, bid_micros: NO_BID, ctr: f32::NAN, status: None, budget: None };

    pub(super) fn start(&self) -> Option<i64> {
        Some(self.from).filter(|from| *from != i64::MIN)
    }

    pub(super) fn end(&self) -> Option<i64> {
        Some(self.until).filter(|until| *until != i64::MAX)
    }

    #[inline]
    pub(super) fn bid(&self) -> Option<u64> {
        Some(self.bid_micros).filter(|bid| *bid != NO_BID)
    }

    #[inline]
    pub(super) fn ctr(&self) -> Option<f32> {
        Some(self.ctr).filter(|ctr| !ctr.is_nan())
    }

    #[inline]
    fn blocks(&self, level: Level, id: u64) -> Option<Reason> {
        if self.status == Some(Status::Paused) {
            Some(Reason::Paused { level, id })
        } else if self.budget == Some(Budget::Exhausted) {
            Some(Reason::Budget { level, id })
        } else {
            None
        }
    }

    pub(super) fn merge(&mut self, patch: &Patch) {
        self.from = patch.start.after(self.start()).unwrap_or(i64::MIN);
        self.until = patch.end.after(self.end()).unwrap_or(i64::MAX);
        self.bid_micros = patch.bid_micros.after(self.bid()).unwrap_or(NO_BID);
        self.ctr = patch.ctr.after(self.ctr()).unwrap_or(f32::NAN);
        self.status = patch.status.after(self.status);
        self.budget = patch.budget.after(self.budget);
    }
}

/// An entity: what it says, and who is above it. One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) record: Record,
    /// Ordinal of the entity above in the level above; 0: none.
    pub(super) parent: u32,
    /// Whether a patch was about it: it may be here only because another names it.
    pub(super) described: bool,
}

impl Entry {
    pub(super) fn new(id: u64) -> Entry {
        Entry { id, record: Record::EMPTY, parent: 0, described: false }
    }
}

/// The control table as it was when its last patches were applied. Epochs share what did not change between them.
#[derive(Clone)]
pub struct Epoch {
    pub(super) number: u64,
    /// Entities by level and ordinal. Ordinal 0 of each is nobody, and says nothing.
    pub(super) entries: [Chunks<Entry>; 4],
    /// What the chain down to each ad group says, by its ordinal: a change above is worked into these once, not into ads.
    pub(super) standings: Chunks<Settled>,
}

impl Epoch {
    pub(super) fn new() -> Epoch {
        let mut entries: [Chunks<Entry>; 4] = std::array::from_fn(|_| Chunks::new());
        entries.iter_mut().for_each(|level| level.push(Entry::new(0)));
        let mut standings = Chunks::new();
        standings.push(Settled::new(&Standing::OPEN));
        Epoch { number: 0, entries, standings }
    }

    /// Number of the epoch: how many calls of [`Control::apply`](super::Control::apply) made it, since the table began.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What holds for a row of this owner. An ad group that is younger than the epoch says nothing in it: active, without a bid. An ad
    /// whose record is younger than the epoch is stopped, for its ad group of before is not known any more.
    #[inline]
    pub fn standing(&self, owner: Owner) -> Standing {
        if owner.0 & AD == 0 {
            return self.of_group(owner.0);
        }
        match self.entries[Level::Ad as usize].get(owner.0 ^ AD) {
            Some(ad) => self.of_group(ad.parent).under(Level::Ad, ad),
            None => Standing::UNKNOWN,
        }
    }

    #[inline]
    fn of_group(&self, ordinal: u32) -> Standing {
        self.standings.get(ordinal).map_or(Standing::OPEN, Settled::standing)
    }

    /// The ads that have a record of their own: key and owner.
    pub fn ads(&self) -> impl Iterator<Item = (Key, Owner)> {
        let ads = self.entries[Level::Ad as usize].iter().zip(0..);
        ads.filter(|(ad, _)| ad.described).map(|(ad, ordinal)| (ad.id, Owner::ad(ordinal)))
    }

    /// How many entities each level knows, in the order of [`Level::ALL`].
    pub fn counts(&self) -> [u64; 4] {
        self.entries.each_ref().map(|level| level.len() as u64 - 1)
    }

    /// Bytes of memory that the entities take, those shared with other epochs included.
    pub fn memory_bytes(&self) -> usize {
        self.entries.iter().map(Chunks::memory_bytes).sum::<usize>() + self.standings.memory_bytes()
    }

    /// Id of the entity above; 0: none.
    pub(super) fn parent_id(&self, level: Level, entry: &Entry) -> u64 {
        let above = level.parent().and_then(|above| self.entries[above as usize].get(entry.parent));
        above.map_or(0, |entry| entry.id)
    }

    /// What an entity says of itself, if a patch was about it.
    pub(super) fn entity(&self, level: Level, ordinal: u32) -> Option<Entity> {
        let entry = self.entries[level as usize].get(ordinal).filter(|entry| entry.described)?;
        let record = &entry.record;
        Some(Entity {
            level,
            id: entry.id,
            parent: Some(self.parent_id(level, entry)).filter(|id| *id != 0),
            status: record.status,
            start: record.start(),
            end: record.end(),
            bid_micros: record.bid(),
            budget: record.budget,
            ctr: record.ctr(),
        })
    }
}
