//! The page at `/ui`: files of this binary, so that a server needs nothing beside it.
//!
//! The page is plain modules of JavaScript below `ui/`, about one thing each, without a build step. It asks this server only and
//! runs no script that is not a file of it, which the browser is told to enforce.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Nothing but files and answers of this server; no inline scripts or styles; not inside other people's pages.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("ui/index.html");

/// The name and content of each file that the page names.
const FILES: [(&str, &str); 17] = [
    ("api.js", include_str!("ui/api.js")),
    ("app.js", include_str!("ui/app.js")),
    ("chart.js", include_str!("ui/chart.js")),
    ("dom.js", include_str!("ui/dom.js")),
    ("entities.js", include_str!("ui/entities.js")),
    ("explain.js", include_str!("ui/explain.js")),
    ("filters.js", include_str!("ui/filters.js")),
    ("form.js", include_str!("ui/form.js")),
    ("icon.svg", include_str!("ui/icon.svg")),
    ("live.js", include_str!("ui/live.js")),
    ("notices.js", include_str!("ui/notices.js")),
    ("offers.js", include_str!("ui/offers.js")),
    ("results.js", include_str!("ui/results.js")),
    ("search.js", include_str!("ui/search.js")),
    ("state.js", include_str!("ui/state.js")),
    ("style.css", include_str!("ui/style.css")),
    ("versions.js", include_str!("ui/versions.js")),
];

/// The page itself.
pub(super) async fn page() -> Response {
    sent("text/html", PAGE)
}

/// A file of the page by its name; 404 for any other.
pub(super) async fn file(Path(name): Path<String>) -> Response {
    let found = FILES.iter().find(|(known, _)| *known == name);
    found.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |(name, content)| sent(media_type(name), content))
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "js")) => "text/javascript",
        Some((_, "css")) => "text/css",
        _ => "image/svg+xml",
    }
}

/// Browsers ask again each time: a page of yesterday's server may not fit today's answers.
fn sent(media_type: &str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, format!("{media_type}; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, POLICY.to_string()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_string()),
        (header::REFERRER_POLICY, "no-referrer".to_string()),
        (header::CACHE_CONTROL, "no-store".to_string()),
    ];
    (headers, content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What follows `start` up to the next quote, at each place.
    fn named<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
        text.split(start).skip(1).filter_map(|rest| rest.split(['"', '\'']).next()).collect()
    }

    #[test]
    fn every_file_that_is_named_is_served_and_every_file_served_is_named() {
        let page = named(PAGE, "\"ui/");
        let modules = FILES.iter().flat_map(|(_, content)| named(content, " from './"));
        let named: std::collections::BTreeSet<&str> = page.into_iter().chain(modules).collect();
        assert_eq!(named, FILES.iter().map(|(name, _)| *name).collect());
    }

    #[test]
    fn nothing_of_the_page_needs_what_its_policy_forbids() {
        for (name, content) in FILES.iter().chain([&("index.html", PAGE)]) {
            for forbidden in
                ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", "javascript:", "https:"]
            {
                assert!(!content.contains(forbidden), "{name} has {forbidden}");
            }
        }
        assert_eq!(PAGE.matches("<script").count(), PAGE.matches("<script type=\"module\" src=").count());
    }
}
