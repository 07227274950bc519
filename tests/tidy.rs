//! Rules of the house that no compiler checks: the layering of modules, where `unsafe` may be, sizes of files, no path of
//! one machine, every setting explained. Each checker is tested on text that breaks its rule.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the library, bottom to top: a module may use only those before it (`src/lib.rs` says why).
const LAYERS: [&str; 31] = [
    "error",
    "types",
    "simd",
    "vfs",
    "format",
    "journal",
    "sample",
    "dataset",
    "topk",
    "linalg",
    "attributes",
    "encoder",
    "heads",
    "quantizer",
    "codes",
    "dense",
    "train",
    "adapters",
    "relevance",
    "index",
    "build",
    "search",
    "eval",
    "calibrate",
    "learn",
    "live",
    "prompts",
    "ads",
    "server",
    "cli",
    "main",
];
/// Modules that may use `unsafe`.
const UNSAFE: [&str; 2] = ["simd", "dense"];
/// Most lines of a source file.
const LINES: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `dir` with this ending, but for hidden and built ones.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    for path in entries.iter().map(fs::DirEntry::path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || ["target", "data", "__pycache__"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The library's module that a file of `src` belongs to.
fn module_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(root().join("src")).ok()?;
    let first = inside.components().next()?.as_os_str().to_string_lossy().into_owned();
    Some(first.trim_end_matches(".rs").to_string())
}

/// The code of a file: without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let code = without_comments(text);
    code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_string()
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The first names after each `crate::`, also of `crate::{a::b, c}`.
fn used_modules(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` and `some_crate::` are other things.
        if code[..at].ends_with(|c: char| is_word(c) || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => used.extend(first_word(rest)),
            Some(group) => used.extend(group_heads(group)),
        }
    }
    used
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text.trim_start().chars().take_while(|&c| is_word(c)).collect();
    (!word.is_empty()).then_some(word)
}

/// Heads of the comma-separated paths of a use group, up to its closing brace.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut item) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.extend(first_word(&std::mem::take(&mut item))),
            _ if depth == 0 => item.push(c),
            _ => {}
        }
    }
    heads.extend(first_word(&item));
    heads
}

/// What `module` may not use of what it uses.
fn broken_edges(module: &str, code: &str) -> Vec<String> {
    let place = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let Some(own) = place(module) else { return vec![format!("{module} is not in the table of layers")] };
    let bad = |used: &String| used != module && place(used).is_none_or(|at| at > own);
    used_modules(code).into_iter().filter(bad).map(|used| format!("{module} uses {used}")).collect()
}

/// The test files of a module belong to no layer.
fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| ["tests", "tests.rs", "testing"].contains(&&*part.as_os_str().to_string_lossy()))
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let sources: Vec<PathBuf> =
        files(&root().join("src"), ".rs").into_iter().filter(|path| !is_test_file(path)).collect();
    assert!(sources.len() > 30, "the sources are where they are looked for");
    let mut broken = Vec::new();
    for path in sources {
        match module_of(&path).as_deref() {
            None | Some("lib") => {}
            Some(module) => {
                let edges = broken_edges(module, &code(&read(&path)));
                broken.extend(edges.into_iter().map(|edge| format!("{}: {edge}", shown(&path))));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_layer_table_names_every_module_of_the_library() {
    let declared: BTreeSet<String> = read(&root().join("src/lib.rs"))
        .lines()
        .filter_map(|line| {
            line.trim().trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';').map(String::from)
        })
        .collect();
    assert!(declared.len() > 10);
    let missing: Vec<&String> = declared.iter().filter(|name| !LAYERS.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_layer_checker_finds_what_breaks_a_layer() {
    assert!(broken_edges("codes", &code("use crate::error::Result;\n/// See [`crate::search`].\n")).is_empty());
    assert_eq!(broken_edges("codes", "use crate::search::Hit;"), ["codes uses search"]);
    assert_eq!(broken_edges("codes", "let x = crate::train::kmeans();"), ["codes uses train"]);
    assert_eq!(broken_edges("simd", "pub(crate) use crate::{error::{Error, Result}, topk, vfs};").len(), 2);
    assert_eq!(broken_edges("news", "").len(), 1);
    assert_eq!(broken_edges("search", "use crate::unheard_of::X;").len(), 1);
    assert!(broken_edges("simd", "$crate::search::x; my_crate::search::x; pub(in crate::simd) fn f() {}").is_empty());
    let with_tests = "use crate::error::Error;\n#[cfg(test)]\nmod tests {\n    use crate::search::Hit;\n}";
    assert!(broken_edges("codes", &code(with_tests)).is_empty());
}

/// Declares a function of OpenMP, which FAISS is compiled with and has no function of its own for.
const OPENMP: &str = "index-tools/src/baseline/faiss.rs";

/// Whether code (without comments) has the word `unsafe` in it; `unsafe_code`, the lint, is another word.
fn is_unsafe(code: &str) -> bool {
    code.match_indices("unsafe").any(|(at, word)| {
        let (before, after) = (code[..at].chars().next_back(), code[at + word.len()..].chars().next());
        !before.is_some_and(|c| is_word(c) || c == '"') && !after.is_some_and(|c| is_word(c) || c == '"')
    })
}

#[test]
fn unsafe_code_stays_where_it_belongs() {
    assert!(is_unsafe("let x = unsafe { y };") && is_unsafe("pub unsafe fn f() {}"));
    assert!(!is_unsafe("#![allow(unsafe_code)]") && !is_unsafe(&code("x(); // not unsafe at all")));
    let mut bad = Vec::new();
    let mut allowed = 0;
    for path in files(root(), ".rs") {
        let inside = module_of(&path).is_some_and(|module| UNSAFE.contains(&module.as_str()));
        let inside = inside || path == root().join(OPENMP);
        match is_unsafe(&without_comments(&read(&path))) {
            true if inside => allowed += 1,
            true if path != root().join("tests/tidy.rs") => bad.push(shown(&path)),
            _ => {}
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(allowed > 3, "unsafe code is found where it is known to be");
}

#[test]
fn files_are_about_one_thing() {
    let long: Vec<String> = [files(root(), ".rs"), files(root(), ".py")]
        .concat()
        .iter()
        .map(|path| (shown(path), read(path).lines().count()))
        .filter(|(_, lines)| *lines > LINES)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

/// Absolute paths that only one machine has.
fn machine_paths(text: &str) -> Vec<&str> {
    // Written in two parts, so that this file does not hold what it looks for.
    let prefixes = [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"], ["/mn", "t/"], ["/Use", "rs/"]].map(|p| p.concat());
    let is_start = |at: usize| !text[..at].ends_with(|c: char| is_word(c) || ['.', '/', '-', ':'].contains(&c));
    text.lines()
        .filter(|line| {
            let offset = line.as_ptr() as usize - text.as_ptr() as usize;
            prefixes.iter().any(|prefix| line.match_indices(prefix.as_str()).any(|(at, _)| is_start(offset + at)))
        })
        .collect()
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let sample = ["run ", "/wo", "rk/x/y"].concat();
    assert_eq!(machine_paths(&sample), [sample.as_str()]);
    assert!(machine_paths(&["https://example.org", "/ho", "me/page and net", "wo", "rk/"].concat()).is_empty());
    let mut found = Vec::new();
    for ending in [".rs", ".toml", ".md", ".py", ".sh", ".json", ".html"] {
        for path in files(root(), ending) {
            let text = read(&path);
            found.extend(machine_paths(&text).into_iter().map(|line| format!("{}: {line}", shown(&path))));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Settings of a configuration file without a comment on the line before.
fn unexplained(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let is_setting = |line: &str| line.split_once('=').is_some_and(|(key, _)| key.trim().chars().all(is_word));
    let explained = |at: usize| at > 0 && lines[at - 1].starts_with('#');
    (0..lines.len()).filter(|&at| is_setting(lines[at]) && !explained(at)).map(|at| lines[at]).collect()
}

#[test]
fn every_setting_is_explained() {
    assert_eq!(unexplained("# About a.\na = 1\nb = 2\n"), ["b = 2"]);
    let configurations = files(&root().join("config"), ".toml");
    assert!(configurations.iter().any(|path| path.ends_with("build.toml")));
    for path in configurations {
        let text = read(&path);
        assert!(text.contains('='), "{}: no settings", shown(&path));
        assert!(unexplained(&text).is_empty(), "{}: {:?}", shown(&path), unexplained(&text));
    }
}
