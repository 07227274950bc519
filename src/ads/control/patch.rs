//! What an operator or a pacing service says about one entity: levels, patches, and the checks that need no table.

use chrono::{DateTime, SecondsFormat};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::types::names;

/// The largest bid, in micros: the largest integer that every reader of JSON holds exactly.
pub const MAX_BID_MICROS: u64 = (1 << 53) - 1;
/// First and last second of the years that RFC 3339 can write, 0 to 9999.
const TIMES: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

// The order of the variants below is the order of their numbers in the journal and in the snapshot.

/// A level of the account tree, widest first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, bincode::Encode, bincode::Decode,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Who pays.
    Advertiser,
    /// A budget and a flight.
    Campaign,
    /// Ads that share a bid and an audience.
    AdGroup,
    /// One ad: its id is its key.
    Ad,
}
names!(Level, "level", Level::Advertiser => "advertiser", Level::Campaign => "campaign", Level::AdGroup => "ad_group", Level::Ad => "ad");

impl Level {
    /// All levels, widest first; the place of a level is its number.
    pub const ALL: [Level; 4] = [Level::Advertiser, Level::Campaign, Level::AdGroup, Level::Ad];

    /// The level that parents of this one are of.
    pub fn parent(self) -> Option<Level> {
        (self as usize).checked_sub(1).map(|above| Level::ALL[above])
    }
}

/// Whether an entity lets its ads be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It does.
    Active,
    /// Someone has stopped it.
    Paused,
}

/// Whether an entity has money left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// It has.
    Ok,
    /// All is spent.
    Exhausted,
}

/// What a patch does to one field. In JSON: a field left out, `null`, a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Field<T> {
    /// Nothing.
    #[default]
    Keep,
    /// The entity no longer says anything of its own, so that its parent's word holds.
    Clear,
    /// The entity says this.
    Set(T),
}

impl<T> Field<T> {
    /// The value, if one is set.
    pub fn set(self) -> Option<T> {
        match self {
            Field::Set(value) => Some(value),
            Field::Keep | Field::Clear => None,
        }
    }

    /// What an entity says after the patch that said `old` before.
    pub(super) fn after(self, old: Option<T>) -> Option<T> {
        match self {
            Field::Keep => old,
            Field::Clear => None,
            Field::Set(value) => Some(value),
        }
    }

    fn map<U>(self, change: impl FnOnce(T) -> U) -> Field<U> {
        match self {
            Field::Keep => Field::Keep,
            Field::Clear => Field::Clear,
            Field::Set(value) => Field::Set(change(value)),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Field::Clear, Field::Set))
    }
}

/// A change to what one entity says.
#[derive(Clone, Debug, PartialEq, Deserialize, bincode::Encode, bincode::Decode)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// The entity's level.
    pub level: Level,
    /// The entity's id: from 1, but for ads, whose ids are keys.
    pub id: u64,
    /// Id of the entity above: the advertiser of a campaign, the campaign of an ad group, the ad group of an ad. `null`: none.
    #[serde(default)]
    pub parent: Field<u64>,
    /// Whether it lets its ads be shown.
    #[serde(default)]
    pub status: Field<Status>,
    /// First second of its flight, in seconds since 1970; in JSON also as RFC 3339.
    #[serde(default, deserialize_with = "time")]
    pub start: Field<i64>,
    /// First second after its flight, in seconds since 1970; in JSON also as RFC 3339.
    #[serde(default, deserialize_with = "time")]
    pub end: Field<i64>,
    /// What a click is worth, in millionths of the currency: at most [`MAX_BID_MICROS`].
    #[serde(default)]
    pub bid_micros: Field<u64>,
    /// Whether it has money left.
    #[serde(default)]
    pub budget: Field<Budget>,
    /// Predicted click rate, 0 to 1.
    #[serde(default)]
    pub ctr: Field<f32>,
}

impl Patch {
    /// A patch that changes nothing yet.
    pub fn new(level: Level, id: u64) -> Patch {
        Patch {
            level,
            id,
            parent: Field::Keep,
            status: Field::Keep,
            start: Field::Keep,
            end: Field::Keep,
            bid_micros: Field::Keep,
            budget: Field::Keep,
            ctr: Field::Keep,
        }
    }

    /// Checks each field by itself, without knowing the entity.
    pub(super) fn check(&self) -> Result<()> {
        if self.id == 0 && self.level != Level::Ad {
            let reason = format!("0 stands for no {}; ids of this level start at 1", self.level);
            return Err(Error::params("id", reason));
        }
        if *self == Patch::new(self.level, self.id) {
            let fields = "parent, status, start, end, bid_micros, budget or ctr";
            return Err(Error::params(
                "patch",
                format!("{} {} is to change in nothing; give {fields}", self.level, self.id),
            ));
        }
        self.check_parent()?;
        check_time("start", self.start)?;
        check_time("end", self.end)?;
        if let Some(bid) = self.bid_micros.set().filter(|bid| *bid > MAX_BID_MICROS) {
            return Err(Error::params("bid_micros", format!("{bid} is more than {MAX_BID_MICROS}")));
        }
        match self.ctr.set().filter(|ctr| !(0.0..=1.0).contains(ctr)) {
            Some(ctr) => Err(Error::params("ctr", format!("{ctr} is no share of clicks; give 0 to 1"))),
            None => Ok(()),
        }
    }

    fn check_parent(&self) -> Result<()> {
        match (self.parent, self.level.parent()) {
            (Field::Set(parent), None) => {
                Err(Error::params("parent", format!("{parent}: nothing is above an advertiser; leave parent out")))
            }
            (Field::Set(0), Some(above)) => {
                Err(Error::params("parent", format!("0 is the id of no {above}; give null for none")))
            }
            _ => Ok(()),
        }
    }
}

/// Checks that a flight has a second in it.
pub(super) fn check_flight(start: Option<i64>, end: Option<i64>) -> Result<()> {
    match (start, end) {
        (Some(start), Some(end)) if start >= end => {
            let reason = format!(
                "{} is not after the start, {}; give a later end or an earlier start",
                shown(end),
                shown(start)
            );
            Err(Error::params("end", reason))
        }
        _ => Ok(()),
    }
}

fn check_time(name: &'static str, time: Field<i64>) -> Result<()> {
    match time.set().filter(|time| !TIMES.contains(time)) {
        Some(time) => {
            let milliseconds = TIMES.contains(&(time / 1000));
            let remedy = if milliseconds { "are these milliseconds? " } else { "" };
            let reason = format!("{time} is beyond the years 0 to 9999; {remedy}give seconds since 1970 or RFC 3339");
            Err(Error::params(name, reason))
        }
        None => Ok(()),
    }
}

/// A time as RFC 3339.
fn shown(time: i64) -> String {
    let date = DateTime::from_timestamp(time, 0).map(|date| date.to_rfc3339_opts(SecondsFormat::Secs, true));
    date.unwrap_or_else(|| time.to_string())
}

/// Seconds since 1970 from a JSON integer or from RFC 3339; fractions of a second are dropped.
struct Seconds(i64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(SecondsVisitor)
    }
}

struct SecondsVisitor;

impl Visitor<'_> for SecondsVisitor {
    type Value = Seconds;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a time: RFC 3339 (\"2026-12-01T00:00:00Z\") or whole seconds since 1970")
    }

    fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> std::result::Result<Seconds, E> {
        Ok(Seconds(seconds))
    }

    fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> std::result::Result<Seconds, E> {
        // What does not fit is as far out of range as the largest that does, and is refused with it.
        Ok(Seconds(i64::try_from(seconds).unwrap_or(i64::MAX)))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Seconds, E> {
        let parsed = DateTime::parse_from_rfc3339(text).map_err(|error| {
            E::custom(format!(
                "{text:?} is no time ({error}); write it as \"2026-12-01T00:00:00Z\", with Z or an offset, or as seconds since 1970"
            ))
        })?;
        Ok(Seconds(parsed.timestamp()))
    }
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Field<i64>, D::Error> {
    Field::<Seconds>::deserialize(deserializer).map(|field| field.map(|seconds| seconds.0))
}

/// What one entity says of itself, for people and their programs; what it leaves out is its parent's to say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entity {
    /// Its level.
    pub level: Level,
    /// Its id.
    pub id: u64,
    /// Id of the entity above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// Whether it lets its ads be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// First second of its flight, in seconds since 1970; in JSON as RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_time")]
    pub start: Option<i64>,
    /// First second after its flight, in seconds since 1970; in JSON as RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_time")]
    pub end: Option<i64>,
    /// What a click is worth, in millionths of the currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bid_micros: Option<u64>,
    /// Whether it has money left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Predicted click rate, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctr: Option<f32>,
}

fn write_time<S: Serializer>(time: &Option<i64>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_str(&shown(*time)),
        None => serializer.serialize_none(),
    }
}
