//! What there is to ask, for programs and pages that know nothing yet: the collections, the known queries.

use axum::extract::{Path, Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

use super::known::KnownQueries;
use super::parse;
use super::problem::Problem;
use super::routes::json_response;
use super::service::{Service, json};

/// Known queries that are sent when the request names no number.
const USUAL: usize = 10;
/// The most that are sent.
const MOST: usize = 1000;
/// Known queries that are looked through: bounds what a request can cost.
const SEARCHED: usize = 100_000;

/// What `GET /v1/collections` tells.
#[derive(Serialize, ToSchema)]
pub(super) struct CollectionsAnswer {
    collections: Vec<String>,
}

/// Query string of `GET /v1/collections/{c}/queries`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct QueriesParams {
    /// What they start with, capitals aside; everything when left out.
    prefix: Option<String>,
    /// How many are wanted; 10 when left out, at most 1,000.
    limit: Option<usize>,
}

/// What `GET /v1/collections/{c}/queries` tells.
#[derive(Serialize, ToSchema)]
pub(super) struct QueriesAnswer {
    queries: Vec<String>,
}

/// The names of the collections served.
#[utoipa::path(get, path = "/v1/collections", tag = "search", responses((status = 200, body = CollectionsAnswer)))]
pub(super) async fn collections(State(service): State<Arc<Service>>) -> Result<Response, Problem> {
    let collections = vec![service.config().server.collection.clone()];
    Ok(json_response(json(&CollectionsAnswer { collections })?))
}

/// The known queries that start with a prefix, in the order of their file.
#[utoipa::path(get, path = "/v1/collections/{collection}/queries", tag = "search", params(("collection" = String, Path), QueriesParams),
    responses((status = 200, body = QueriesAnswer)))]
pub(super) async fn queries(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    service.check_collection(&name)?;
    let params: QueriesParams = parse::query_string(request.uri())?;
    let queries = starting(&service.known, &params);
    Ok(json_response(json(&QueriesAnswer { queries })?))
}

fn starting(known: &KnownQueries, params: &QueriesParams) -> Vec<String> {
    let prefix = params.prefix.as_deref().unwrap_or_default();
    let most = params.limit.unwrap_or(USUAL).min(MOST);
    known.starting(prefix, SEARCHED).take(most).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_found_by_their_beginning() {
        let texts = ["Red shoe", "blue hat", "red hat"].map(String::from);
        let known = KnownQueries::new(texts.to_vec(), vec![0.0; 3], 1);
        let of = |prefix: &str, limit| starting(&known, &QueriesParams { prefix: Some(prefix.to_string()), limit });
        assert_eq!(of("RED", None), ["Red shoe", "red hat"]);
        assert_eq!(of(" red", Some(1)), ["Red shoe"]);
        assert!(of("hat", None).is_empty());
        assert_eq!(starting(&known, &QueriesParams::default()).len(), 3);
    }
}
