//! Views of a text: what of a long document a short vector can say.
//!
//! ```text
//! title, text -->  local views    title + one sentence, cut to so many words     each finds what one sentence is about
//!             -->  the global one title + the whole text                         finds what the document is about
//! ```
//! The easy version ends a sentence at every full stop. Departures: boundaries are those of Unicode (UAX 29), which know quotation
//! marks, decimals and many scripts; and what UAX 29 leaves open is closed here: no sentence ends behind a known abbreviation or
//! behind a single letter ("J. Smith"), nor where the next word is in lower case, nor one of fewer than [`LEAST_WORDS`] words, which joins the next.
//!
//! What is bounded: texts are at most [`MAX_TEXT`] bytes, local views at most [`ViewLimits::views`] a text, each of at most
//! [`ViewLimits::words`] words.

use unicode_segmentation::UnicodeSegmentation;

use super::MAX_TEXT;
use crate::error::{Error, Result};

/// Words of a sentence that stands alone, at least.
pub const LEAST_WORDS: usize = 3;
/// Words behind which a full stop ends no sentence, in lower case.
const ABBREVIATIONS: [&str; 34] = [
    "al", "approx", "art", "ca", "capt", "cf", "co", "col", "corp", "dept", "dr", "ed", "eds", "eg", "e.g", "fig",
    "gen", "gov", "i.e", "inc", "jr", "ltd", "mr", "mrs", "ms", "no", "p", "pp", "prof", "rep", "sen", "sr", "st",
    "vs",
];

/// How views are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewLimits {
    /// Most words of a local view, the title's included.
    pub words: usize,
    /// Most local views of a text; later sentences are in the global view only.
    pub views: usize,
}

impl Default for ViewLimits {
    fn default() -> Self {
        ViewLimits { words: 40, views: 32 }
    }
}

/// The views of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextViews {
    /// Title and whole text.
    pub global: String,
    /// Title and a sentence each, in the order of the text; never empty.
    pub local: Vec<String>,
}

/// The views of a document. Without a text the title is its only local view; without a title sentences stand alone.
///
/// # Errors
/// `InvalidParams` where both are empty, one is longer than [`MAX_TEXT`] bytes, or a limit is 0.
pub fn text_views(title: &str, text: &str, limits: ViewLimits) -> Result<TextViews> {
    let (title, text) = (title.trim(), text.trim());
    let ViewLimits { words, views } = limits;
    if words == 0 || views == 0 {
        let reason = format!("{words} words and {views} views make no view; give 1 of each or more");
        return Err(Error::params("limits", reason));
    }
    let longest = title.len().max(text.len());
    if longest > MAX_TEXT {
        return Err(Error::params("text", format!("it has {longest} bytes, more than {MAX_TEXT}; cut it")));
    }
    if title.is_empty() && text.is_empty() {
        return Err(Error::params("text", "title and text are empty; leave the document out"));
    }
    let with_title = |text: &str| match (title.is_empty(), text.is_empty()) {
        (true, _) => text.to_string(),
        (_, true) => title.to_string(),
        _ => format!("{title}. {text}"),
    };
    let cut = |sentence: &str| {
        let whole = with_title(sentence);
        whole.split_whitespace().take(words).collect::<Vec<_>>().join(" ")
    };
    let mut local: Vec<String> = sentences(text).into_iter().take(views).map(cut).collect();
    if local.is_empty() {
        local.push(cut(""));
    }
    local.dedup();
    Ok(TextViews { global: with_title(text), local })
}

/// The sentences of a text, without the space around them; none where there are no words.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    for (at, bound) in text.split_sentence_bound_indices() {
        let end = at + bound.len();
        let sentence = text[start..end].trim();
        let goes_on = text[end..].trim_start().starts_with(char::is_lowercase);
        if !goes_on && ends(sentence) && sentence.unicode_words().count() >= LEAST_WORDS {
            found.push((start, end));
            start = end;
        }
    }
    let rest = &text[start..];
    if rest.unicode_words().next().is_some() {
        // What is too short to stand alone joins the sentence before it.
        match found.last_mut() {
            Some(last) if ends(text[last.0..last.1].trim()) && rest.unicode_words().count() < LEAST_WORDS => {
                last.1 = text.len();
            }
            _ => found.push((start, text.len())),
        }
    }
    found.into_iter().map(|(start, end)| text[start..end].trim()).collect()
}

/// Whether a sentence may end here: not behind an abbreviation or an initial.
fn ends(sentence: &str) -> bool {
    let Some(before) = sentence.strip_suffix('.') else { return true };
    let word = before.rsplit(|c: char| c.is_whitespace() || "([\"'“‘".contains(c)).next().unwrap_or_default();
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    !initial && !ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_survive_abbreviations_and_numbers() {
        let text = "Dr. J. Smith of Acme Inc. paid 3.50 dollars, i.e. too much. \"Why so much?\" asked Mrs. Jones. \
                    He did not say (see fig. 3). Indeed. They left at last!";
        assert_eq!(
            sentences(text),
            [
                "Dr. J. Smith of Acme Inc. paid 3.50 dollars, i.e. too much.",
                "\"Why so much?\" asked Mrs. Jones.",
                "He did not say (see fig. 3).",
                "Indeed. They left at last!",
            ]
        );
        assert_eq!(sentences("One sentence alone is here. Yes."), ["One sentence alone is here. Yes."]);
        assert_eq!(sentences("これは長い文です。次の文です。").len(), 2);
        assert!(sentences(" ... \n --- ").is_empty() && sentences("").is_empty());
        assert_eq!(sentences("no stop at all"), ["no stop at all"]);
    }

    #[test]
    fn every_word_is_in_one_sentence_whatever_the_text() {
        for text in
            ["a. b. c. d. e", "Mr.", "x!y?z... and then more of it. B", "\n\nA line\nAnother line here. End", "é. Ü."]
        {
            let of = |text: &str| text.unicode_words().map(String::from).collect::<Vec<_>>();
            assert_eq!(sentences(text).into_iter().flat_map(of).collect::<Vec<_>>(), of(text), "{text:?}");
        }
    }

    #[test]
    fn views_have_the_title_and_are_cut() {
        let views =
            text_views("Owls", "They hunt at night. They see well in the dark.", ViewLimits::default()).unwrap();
        assert_eq!(views.global, "Owls. They hunt at night. They see well in the dark.");
        assert_eq!(views.local, ["Owls. They hunt at night.", "Owls. They see well in the dark."]);
        let short =
            text_views("Owls", "They hunt at night. They see well in the dark.", ViewLimits { words: 3, views: 1 });
        assert_eq!(short.unwrap().local, ["Owls. They hunt"]);
        assert_eq!(text_views("Owls", " ", ViewLimits::default()).unwrap().local, ["Owls"]);
        assert_eq!(text_views("", "They hunt at night.", ViewLimits::default()).unwrap().global, "They hunt at night.");
        let many = "They hunt at night. ".repeat(1_000) + &"They see well. ".repeat(10);
        assert!(text_views("Owls", &many, ViewLimits::default()).unwrap().local.len() <= 32);
    }

    #[test]
    fn empty_and_endless_texts_are_refused() {
        let refused = |title: &str, text: &str, limits| text_views(title, text, limits).unwrap_err().to_string();
        assert!(refused("", " \n", ViewLimits::default()).contains("empty"));
        assert!(refused("", &"x".repeat(MAX_TEXT + 1), ViewLimits::default()).contains("1048577"));
        assert!(refused("a", "b", ViewLimits { words: 0, views: 1 }).contains("0 words"));
        assert!(text_views("", &"word ".repeat(MAX_TEXT / 5), ViewLimits::default()).is_ok());
    }
}
