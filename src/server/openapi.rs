//! The OpenAPI document, and a page that shows it.
//!
//! The document is derived from the types that are parsed and written, and from the functions that answer, so it cannot say
//! what is not so; a test holds its paths against the routes that are counted. A new route needs `#[utoipa::path]` on its
//! function and its name in `paths` below. The page is Swagger UI, compiled in: nothing is loaded from elsewhere.

use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, ResponseBuilder};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::Config;

use super::problem::ProblemDocument;
use super::{ads_routes, discover, prompts, routes, watch};

/// What the page may run and ask: its own files, and this server.
const POLICY: &str =
    "script-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "bigrain",
        description = "Two-grain embedding retrieval. Errors are problem documents (RFC 9457) with a stable code."
    ),
    paths(
        routes::search,
        routes::search_named,
        routes::batch,
        routes::describe,
        discover::collections,
        discover::queries,
        prompts::prompts,
        routes::live,
        routes::ready,
        routes::metrics,
        watch::status,
        watch::slow,
        watch::limits,
        ads_routes::explain,
        ads_routes::recall,
        ads_routes::put_ads,
        ads_routes::delete_ads,
        ads_routes::ad,
        ads_routes::patch_control,
        ads_routes::entity,
        ads_routes::versions,
        ads_routes::stage,
        ads_routes::activate,
        ads_routes::roll_back,
        ads_routes::split,
        ads_routes::compact,
        document,
        docs,
        docs_file,
    ),
    components(schemas(ProblemDocument)),
    modifiers(&Frame)
)]
struct Document;

/// The methods of a path that are described.
fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut path.get, &mut path.put, &mut path.post, &mut path.patch].into_iter().flatten()
}

/// Every route may answer with a problem.
fn add_problems(operation: &mut Operation) {
    let schema = Ref::from_schema_name("ProblemDocument");
    for status in ["4XX", "5XX"] {
        let content = ContentBuilder::new().schema(Some(schema.clone())).build();
        let response = ResponseBuilder::new().content("application/problem+json", content).build();
        operation.responses.responses.insert(status.into(), response.into());
    }
}

/// What holds for all routes: how a key is sent, how errors look.
struct Frame;

impl Modify for Frame {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("key", scheme);
        let needed = utoipa::openapi::SecurityRequirement::new("key", Vec::<String>::new());
        document.paths.paths.values_mut().flat_map(operations).for_each(add_problems);
        // Both are enough: a server may ask for no keys.
        document.security = Some(vec![needed, utoipa::openapi::SecurityRequirement::default()]);
    }
}

/// The document as it is sent.
static TEXT: LazyLock<String> = LazyLock::new(|| Document::openapi().to_json().unwrap_or_default());

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "documents", responses((status = 200, body = Object)))]
pub(super) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

/// A page that shows the document and sends requests.
#[utoipa::path(get, path = "/docs", tag = "documents",
    responses((status = 200, body = String, content_type = "text/html")))]
pub(super) async fn docs() -> Response {
    match file("index.html") {
        // The page names its files as its neighbours, and stands a folder higher than they.
        Some((media, bytes)) => {
            let page =
                String::from_utf8_lossy(&bytes).replace("href=\"./", "href=\"docs/").replace("src=\"./", "src=\"docs/");
            page_response(&media, page.replace("href=\"index.css", "href=\"docs/index.css").into_bytes())
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A file of the page.
#[utoipa::path(get, path = "/docs/{file}", tag = "documents", params(("file" = String, Path)),
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn docs_file(Path(name): Path<String>) -> Response {
    match file(&name) {
        Some((media, bytes)) => page_response(&media, bytes),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A file of Swagger UI with its media type.
fn file(name: &str) -> Option<(String, Vec<u8>)> {
    let config = Arc::new(Config::from("/openapi.json"));
    let found = utoipa_swagger_ui::serve(name, config).ok().flatten()?;
    Some((found.content_type, found.bytes.into_owned()))
}

fn page_response(media: &str, bytes: Vec<u8>) -> Response {
    let policy = (HeaderName::from_static("content-security-policy"), POLICY.to_string());
    ([(header::CONTENT_TYPE, media.to_string()), policy], bytes).into_response()
}

#[cfg(test)]
mod tests {
    use super::super::metrics::ROUTES;
    use super::*;

    #[test]
    fn the_document_names_every_route_that_is_counted() {
        let document = Document::openapi();
        let named: Vec<&str> = document.paths.paths.keys().map(String::as_str).collect();
        let mut counted: Vec<&str> = ROUTES.into_iter().filter(|route| *route != "other").collect();
        counted.sort_unstable();
        let mut named_in_order = named.clone();
        named_in_order.sort_unstable();
        assert_eq!(named_in_order, counted);
    }
}
