//! Ads, control, explanations and versions, without HTTP: bytes of a request in, bytes of an answer or a [`Problem`] out.
//!
//! Lines of a write are taken one by one: a bad one is answered with what is wrong with it and spoils nobody else. The good
//! ones are applied together, so that they share a sync, and acknowledged when they are durable and visible.
//!
//! Searching has the workers for itself. What is done here and takes processor time for long (staging, compacting, measuring recall) runs on threads
//! that the runtime keeps for what blocks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::StatusCode;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::api::{
    ActivateRequest, AdAnswer, AdItem, DeleteRequest, EntityAnswer, ExplainRequest, ItemAnswer, ItemProblem,
    ItemStatus, Nothing, RecallAnswer, RecallRequest, SearchRequest, SplitRequest, StageRequest, StandingAnswer,
    WriteAnswer,
};
use super::parse;
use super::plan::decode;
use super::problem::Problem;
use super::service::{Context, Service, WorkerState, json as written, unwritable};
use crate::ads::control::{Earlier, Field, Level, Patch, Standing};
use crate::ads::{AnswerQuality, Pinned, quality};
use crate::error::Error;
use crate::live::{Change, Document, Place};
use crate::search::Scratch;
use crate::train::Silent;
use crate::types::Key;

type Outcome<T> = std::result::Result<T, Problem>;

/// Lines of one write, at most.
const MAX_LINES: usize = 100_000;
/// Queries that recall is measured with where the request does not say, and at most.
const DEFAULT_QUERIES: u64 = 100;
const MAX_QUERIES: u64 = 10_000;

/// One line of a write: what it asks for, or what is wrong with it.
struct Item<T> {
    line: usize,
    key: Option<u64>,
    asked: Outcome<T>,
}

/// How one query did, and how long its search took.
struct Measured {
    recall: f64,
    ecpm_recall: f64,
    ms: f64,
}

impl Service {
    /// Answers `PUT .../ads`.
    pub(super) fn put_ads(&self, body: &Bytes, context: &Context) -> Outcome<Vec<u8>> {
        self.collection.check_writable()?;
        let items = lines(body)?.into_iter().map(|(line, text)| self.ad_item(line, text)).collect();
        self.write_ads(items, context)
    }

    fn ad_item(&self, line: usize, text: &[u8]) -> Item<Change> {
        let item: AdItem = match parse::json(text) {
            Ok(item) => item,
            Err(problem) => return Item { line, key: None, asked: Err(problem) },
        };
        Item { line, key: Some(item.key), asked: self.change_of(item) }
    }

    fn change_of(&self, item: AdItem) -> Outcome<Change> {
        let AdItem { key, vector, vector_b64, dtype, attributes } = item;
        let vector = match (vector, vector_b64) {
            (Some(vector), None) => vector,
            (None, Some(text)) => decode(&text, dtype)?,
            (None, None) => {
                let remedy = "give vector or vector_b64";
                return Err(Problem::meaning("vector_missing", "", "the ad has no vector", remedy));
            }
            _ => {
                let detail = "the ad has both vector and vector_b64";
                return Err(Problem::meaning("vector_ambiguous", "/vector_b64", detail, "give one of them"));
            }
        };
        let record = Value::Object(attributes).to_string();
        let change = Change::Upsert(Document { key, vector, record });
        self.collection.check_change(&change)?;
        Ok(change)
    }

    /// Answers `POST .../ads/delete`.
    pub(super) fn delete_ads(&self, body: &Bytes, context: &Context) -> Outcome<Vec<u8>> {
        self.collection.check_writable()?;
        let DeleteRequest { keys } = parse::json(body)?;
        check_count(keys.len(), "/keys")?;
        let item = |(at, key): (usize, Key)| Item { line: at + 1, key: Some(key), asked: Ok(Change::Delete(key)) };
        self.write_ads(keys.into_iter().enumerate().map(item).collect(), context)
    }

    fn write_ads(&self, items: Vec<Item<Change>>, context: &Context) -> Outcome<Vec<u8>> {
        let (changes, items) = separate(items);
        let accepted = changes.len();
        let sequence = if changes.is_empty() { None } else { Some(self.collection.change_ads(changes)?) };
        self.metrics.ads_written(accepted);
        let rejected = items.len() - accepted;
        written(&WriteAnswer {
            request_id: &context.request_id,
            sequence,
            control_epoch: None,
            accepted,
            rejected,
            items,
        })
    }

    /// Answers `PATCH .../control`.
    pub(super) fn patch_control(&self, body: &Bytes, context: &Context) -> Outcome<Vec<u8>> {
        self.collection.check_writable()?;
        let mut earlier = Earlier::default();
        let item = |(line, text): (usize, &[u8])| {
            let asked = parse::json::<Patch>(text).and_then(|patch| {
                let patch = self.with_parent(patch)?;
                self.collection.control().check_after(&patch, &mut earlier)?;
                Ok(patch)
            });
            let key = asked.as_ref().ok().map(|patch| patch.id);
            Item { line, key, asked }
        };
        let (patches, items) = separate(lines(body)?.into_iter().map(item).collect());
        let accepted = patches.len();
        let epoch = if patches.is_empty() {
            self.collection.control().epoch().number()
        } else {
            self.collection.patch_control(patches)?
        };
        self.metrics.control_written(accepted);
        let rejected = items.len() - accepted;
        written(&WriteAnswer {
            request_id: &context.request_id,
            sequence: None,
            control_epoch: Some(epoch),
            accepted,
            rejected,
            items,
        })
    }

    /// The first patch of an ad names its ad group, so that what holds for that goes on to hold for the ad: where the client does not,
    /// the ad's attribute does.
    fn with_parent(&self, patch: Patch) -> Outcome<Patch> {
        if patch.level != Level::Ad
            || patch.parent != Field::Keep
            || self.collection.control().entity(Level::Ad, patch.id).is_some()
        {
            return Ok(patch);
        }
        let pinned = self.collection.pin(None, 0);
        let place = pinned.snapshot.place(patch.id)?;
        if place == Place::Nowhere {
            // Nobody knows its ad group yet; without one, what is said of the group would not hold for the ad.
            return Ok(patch);
        }
        let parent = match pinned.view().ad_group(place) {
            0 => Field::Clear,
            group => Field::Set(group),
        };
        Ok(Patch { parent, ..patch })
    }

    /// Answers `GET .../control/{level}/{id}`.
    pub(super) fn entity(&self, level: &str, id: &str) -> Outcome<Vec<u8>> {
        let level: Level = level.parse()?;
        let id: u64 = id.parse().map_err(|_| not_a_key(id))?;
        let control = self.collection.control();
        let entity = control.entity(level, id).ok_or_else(|| {
            let detail = format!("nobody has said anything about {level} {id}");
            Problem::new(StatusCode::NOT_FOUND, "unknown_entity", detail, "describe it by PATCH .../control")
        })?;
        written(&EntityAnswer { control_epoch: control.epoch().number(), entity })
    }

    /// Answers `GET .../ads/{key}`.
    pub(super) fn ad(&self, key: &str) -> Outcome<Vec<u8>> {
        let key: Key = key.parse().map_err(|_| not_a_key(key))?;
        let pinned = self.collection.pin(None, 0);
        let place = pinned.snapshot.place(key)?;
        if place == Place::Nowhere {
            let detail = format!("there is no ad with key {key}");
            return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_ad", detail, "upsert it by PUT .../ads"));
        }
        let view = pinned.view();
        let answer = AdAnswer {
            key,
            place: place_name(place),
            index_version: pinned.version.at.id.clone(),
            control_epoch: pinned.epoch.number(),
            attributes: record_at(&pinned, place)?,
            standing: standing_answer(&view.standing(place), view.now),
        };
        written(&answer)
    }

    /// Answers `POST .../explain`.
    pub(super) fn explain(&self, body: &Bytes, context: &Context, worker: &mut WorkerState) -> Outcome<Vec<u8>> {
        let ExplainRequest { query, key } = parse::json(body)?;
        let pinned = self.collection.pin(query.split_key.as_deref(), 0);
        let plan = self.rules(&pinned).plan(query, context.arrived).map_err(|problem| problem.within("/query"))?;
        let query = self.ad_query(&plan, &pinned)?;
        let explanation = pinned.view().explain(&query, key, &mut worker.scratch)?;
        let mut answer = serde_json::to_value(&explanation).map_err(|error| unwritable(&error))?;
        answer["request_id"] = json!(&*context.request_id);
        answer["index_version"] = json!(pinned.version.at.id);
        answer["control_epoch"] = json!(pinned.epoch.number());
        written(&answer)
    }

    /// Answers `POST .../recall`: the queries that are stored with the version, or else the known ones, with this effort, against
    /// looking at every ad. As many queries as there is time for, once at a time: each reads every dense vector.
    pub(super) fn measure_recall(&self, body: &Bytes, context: &Context) -> Outcome<Vec<u8>> {
        let RecallRequest { queries, search } = parse::json(body)?;
        let (search, wanted) = (search.unwrap_or_default(), queries.unwrap_or(DEFAULT_QUERIES));
        if !(1..=MAX_QUERIES).contains(&wanted) {
            let (detail, remedy) = (format!("queries is {wanted}"), format!("give 1 to {MAX_QUERIES}"));
            return Err(Problem::meaning("queries_out_of_range", "/queries", detail, remedy));
        }
        if !self.config.limits.exact {
            let detail = "recall is measured by exact search, which is switched off on this server";
            let remedy = "allow it by limits.exact, or look at the estimate of GET /v1/status";
            return Err(Problem::meaning("exact_not_allowed", "", detail, remedy));
        }
        let Ok(_alone) = self.measuring.try_lock() else {
            let remedy = "try again when that is answered";
            let detail = "recall is being measured for another request";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "measuring", detail, remedy));
        };
        let limit_ms = self.config.timeouts.search_max_ms;
        let deadline = context.arrived + Duration::from_millis(limit_ms);
        let pinned = self.collection.pin(None, 0);
        let mut measured = Vec::new();
        for vector in self.sample_queries(&pinned, wanted as usize)? {
            let request = SearchRequest { vector: Some(vector), ..search.clone() };
            let Some(one) = self.measure_query(request, &pinned, deadline)? else { break };
            measured.push(one);
        }
        if measured.is_empty() {
            return Err(Problem::deadline(limit_ms));
        }
        let column = |value: fn(&Measured) -> f64| measured.iter().map(value).collect::<Vec<f64>>();
        let (recall, standard_error) = mean(&column(|one| one.recall));
        let mut times = column(|one| one.ms);
        times.sort_unstable_by(f64::total_cmp);
        written(&RecallAnswer {
            request_id: &context.request_id,
            index_version: &pinned.version.at.id,
            queries: measured.len(),
            recall,
            standard_error,
            ecpm_recall: mean(&column(|one| one.ecpm_recall)).0,
            median_ms: times[times.len() / 2],
        })
    }

    /// How one query does; None where the deadline comes first.
    fn measure_query(&self, request: SearchRequest, pinned: &Pinned, deadline: Instant) -> Outcome<Option<Measured>> {
        let mut scratch = Scratch::default();
        let plan = self.rules(pinned).plan(request, Instant::now()).map_err(|problem| problem.within("/search"))?;
        let mut query = self.ad_query(&plan, pinned)?;
        query.params.deadline = Some(deadline);
        let begun = Instant::now();
        let served = pinned.view().search(&query, &mut scratch)?;
        let ms = begun.elapsed().as_secs_f64() * 1e3;
        let best = pinned.view().search_all(&query, &mut scratch)?;
        if served.stats.fraction < 1.0 || best.stats.fraction < 1.0 {
            return Ok(None);
        }
        let AnswerQuality { recall, ecpm_recall } = quality(&served.hits, &best.hits);
        Ok(Some(Measured { recall, ecpm_recall, ms }))
    }

    fn sample_queries(&self, pinned: &Pinned, wanted: usize) -> Outcome<Vec<Vec<f32>>> {
        let searcher = &pinned.version.searcher;
        let stored = searcher.index().canary().map(|canary| canary.queries.as_slice()).unwrap_or_default();
        let known = || self.known_texts().iter().filter_map(|text| self.known_vector(text)).map(<[f32]>::to_vec);
        let vectors: Vec<Vec<f32>> = match stored.is_empty() {
            true => known().take(wanted).collect(),
            false => stored.chunks(searcher.dim()).take(wanted).map(<[f32]>::to_vec).collect(),
        };
        if vectors.is_empty() {
            let remedy = "build the index with --queries, or give the server known queries";
            let detail = "there are no queries to measure with";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no_queries", detail, remedy));
        }
        Ok(vectors)
    }

    /// Answers `GET .../versions`. Where versions lie on the server is for those who may stage some (`with_paths`).
    pub(super) fn versions(&self, with_paths: bool) -> Outcome<Vec<u8>> {
        let (previous, split) = self.collection.others();
        let split = split.map(|(version, share)| json!({"version": version, "share": share}));
        let mut versions = json!(self.collection.versions());
        for version in versions.as_array_mut().into_iter().flatten().filter(|_| !with_paths) {
            version.as_object_mut().and_then(|version| version.remove("path"));
        }
        let active = &self.collection.active().at.id;
        written(&json!({"active": active, "previous": previous, "split": split, "versions": versions}))
    }

    /// Answers `POST .../versions`.
    pub(super) fn stage(&self, body: &Bytes) -> Outcome<Vec<u8>> {
        let StageRequest { path } = parse::json(body)?;
        // Who may stage versions may know what is wrong with their files.
        let refused = |error: Error| match error {
            Error::Corrupt { .. } | Error::InvalidInput { .. } => {
                let remedy = "build or copy the version again; the active one serves on";
                Problem::meaning("version_refused", "/path", error.to_string(), remedy)
            }
            error => error.into(),
        };
        let staged = self.collection.stage(&path).map_err(refused)?;
        if let Some(note) = &staged.note {
            tracing::warn!(version = staged.version, "{note}");
        }
        written(&staged)
    }

    /// Answers `POST .../activate`.
    pub(super) fn activate(&self, body: &Bytes) -> Outcome<Vec<u8>> {
        let ActivateRequest { version, if_current } = parse::json(body)?;
        let before = self.collection.activate(&version, if_current.as_deref()).map_err(|error| match error {
            Error::Mismatch { .. } => {
                let remedy = "look at the list of versions, and decide again";
                Problem::new(StatusCode::CONFLICT, "version_conflict", error.to_string(), remedy).at("/if_current")
            }
            error => error.into(),
        })?;
        written(&json!({"active": version, "previous": before}))
    }

    /// Answers `POST .../rollback`.
    pub(super) fn roll_back(&self, body: &Bytes) -> Outcome<Vec<u8>> {
        let Nothing {} = parse::json(body)?;
        let before = self.collection.active().at.id.clone();
        let active = self.collection.roll_back()?;
        written(&json!({"active": active, "previous": before}))
    }

    /// Answers `POST .../split`.
    pub(super) fn split(&self, body: &Bytes) -> Outcome<Vec<u8>> {
        let SplitRequest { version, share } = parse::json(body)?;
        match (&version, share) {
            (Some(version), Some(share)) => self.collection.split(Some((version, share)))?,
            (None, None) => self.collection.split(None)?,
            _ => {
                let remedy = "give both version and share, or none of them to end the split";
                return Err(Problem::meaning("split_incomplete", "", "only one of version and share is given", remedy));
            }
        }
        self.versions(true)
    }

    /// Answers `POST .../compact`.
    pub(super) fn compact(&self, body: &Bytes) -> Outcome<Vec<u8>> {
        let Nothing {} = parse::json(body)?;
        let made = self.collection.compact(&Silent)?;
        written(&json!({"compacted": made.is_some(), "active": self.collection.active().at.id}))
    }

    /// Runs what takes long on a thread that may block.
    pub(super) async fn blocking(
        self: &Arc<Self>,
        work: impl FnOnce(&Service) -> Outcome<Vec<u8>> + Send + 'static,
    ) -> Outcome<Vec<u8>> {
        let service = self.clone();
        match tokio::task::spawn_blocking(move || work(&service)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(super::pool::Lost::Panicked.into()),
        }
    }
}

/// The lines of a body that are not empty, with their numbers from 1.
fn lines(body: &Bytes) -> Outcome<Vec<(usize, &[u8])>> {
    let numbered = body.split(|&byte| byte == b'\n').enumerate();
    let lines: Vec<(usize, &[u8])> =
        numbered.map(|(at, line)| (at + 1, line.trim_ascii())).filter(|(_, line)| !line.is_empty()).collect();
    check_count(lines.len(), "")?;
    Ok(lines)
}

fn check_count(count: usize, pointer: &str) -> Outcome<()> {
    if (1..=MAX_LINES).contains(&count) {
        return Ok(());
    }
    let detail = format!("there are {count} items");
    Err(Problem::meaning("items_out_of_range", pointer, detail, format!("send 1 to {MAX_LINES} items")))
}

/// What can be applied, and the answer to every line.
fn separate<T>(items: Vec<Item<T>>) -> (Vec<T>, Vec<ItemAnswer>) {
    let mut good = Vec::new();
    let mut answers = Vec::with_capacity(items.len());
    for Item { line, key, asked } in items {
        let (status, problem) = match asked {
            Ok(asked) => {
                good.push(asked);
                (ItemStatus::Ok, None)
            }
            Err(Problem { code, detail, pointer, remedy, .. }) => {
                (ItemStatus::Error, Some(ItemProblem { code, detail, pointer, remedy }))
            }
        };
        answers.push(ItemAnswer { line, key, status, problem });
    }
    (good, answers)
}

/// The mean and its standard error.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}

fn not_a_key(text: &str) -> Problem {
    let shown: String = text.chars().take(40).collect();
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "invalid_key",
        format!("{shown:?} is no key"),
        "give an integer from 0 to 2^64 - 1",
    )
}

pub(super) fn place_name(place: Place) -> &'static str {
    match place {
        Place::Delta(_) => "delta",
        Place::Base(_) | Place::Nowhere => "version",
    }
}

/// What was stored with an ad, as it was given.
pub(super) fn record_at(pinned: &Pinned, place: Place) -> crate::error::Result<Option<Box<RawValue>>> {
    let text = match place {
        Place::Base(row) => pinned.version.searcher.fields(row)?,
        Place::Delta(place) => pinned.snapshot.delta_row(place).map(|row| row.record().to_string()),
        Place::Nowhere => None,
    };
    let parse = |text| RawValue::from_string(text).map_err(|error| Error::corrupt("fields", "BLOB", error.to_string()));
    text.map(parse).transpose()
}

/// The vector of an ad, as a query for what is like it.
pub(super) fn vector_at(pinned: &Pinned, key: Key) -> crate::error::Result<Option<Vec<f32>>> {
    match pinned.snapshot.place(key)? {
        Place::Base(_) => pinned.version.searcher.vector(key),
        Place::Delta(place) => Ok(pinned.snapshot.delta_row(place).map(|row| row.vector())),
        Place::Nowhere => Ok(None),
    }
}

fn standing_answer(standing: &Standing, now: i64) -> StandingAnswer {
    let reason = standing.eligible(now).err();
    let known = |id: u64| Some(id).filter(|&id| id != 0);
    StandingAnswer {
        eligible: reason.is_none(),
        detail: reason.map(|reason| reason.to_string()),
        reason,
        bid_micros: standing.bid_micros,
        ctr: standing.ctr,
        advertiser: known(standing.advertiser),
        campaign: known(standing.campaign),
        ad_group: known(standing.ad_group),
    }
}
