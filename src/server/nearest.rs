//! "Did you mean": the known name nearest to a mistyped one.

/// The name of `known` nearest to `name`, unless even that one is far from it.
///
/// Nearness is the Damerau-Levenshtein distance over the longer length; below one half in common nothing is offered.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    ranked(name, known).into_iter().map(|(_, known)| known).next()
}

/// The names of `known` that resemble `name`, nearest first, with their similarity from .5 to 1.
pub(super) fn ranked<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<(f64, &'a str)> {
    let similarity = |known: &'a str| (strsim::normalized_damerau_levenshtein(name, known), known);
    let mut ranked: Vec<_> = known.into_iter().map(similarity).filter(|(s, _)| *s >= 0.5).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_the_nearest_and_nothing_for_the_unlike() {
        let known = ["vector", "vector_b64", "limit", "timeout_ms"];
        assert_eq!(nearest("vektor", known), Some("vector"));
        assert_eq!(nearest("limits", known), Some("limit"));
        assert_eq!(nearest("zzzz", known), None);
    }
}
