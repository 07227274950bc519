//! Files of entities and mentions, and what they say as texts.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use bigrain::encoder::{ViewLimits, text_views};
use bigrain::error::{Error, Result};
use bigrain::sample::sample_rows;

/// Columns of the file of entities that are used.
const ENTITY_COLUMNS: [&str; 6] = ["synset", "lexfile", "lemmas", "definition", "examples", "hypernyms"];
/// Columns of the file of mentions that are used.
const MENTION_COLUMNS: [&str; 4] = ["left", "mention", "right", "gold"];
/// Words of context on either side of a mention.
const CONTEXT: usize = 12;
/// Between two values of one field.
const BETWEEN: &str = " | ";

/// Entities of some groups, with the texts of their views.
#[derive(Debug, Default)]
pub struct Entities {
    /// Their names in the file.
    pub ids: Vec<String>,
    /// Local views, entity by entity.
    pub local: Vec<String>,
    /// First local view of each, then their number.
    pub starts: Vec<usize>,
    /// The global view of each.
    pub global: Vec<String>,
}

/// Mentions of entities in context.
#[derive(Debug, Default)]
pub struct Mentions {
    /// The mention's own words.
    pub surfaces: Vec<String>,
    /// The mention with the words around it.
    pub contexts: Vec<String>,
    /// The entity of each, by its place among the entities.
    pub gold: Vec<u32>,
}

/// The rows of a table with a header line: these columns of each, in this order.
fn read_table(path: &Path, columns: &[&str]) -> Result<Vec<Vec<String>>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let place = |name: &&str| {
        header.iter().position(|column| column == name).ok_or_else(|| {
            Error::input(path, "header", format!("there is no column {name:?}; it needs {}", columns.join(", ")))
        })
    };
    let places: Vec<usize> = columns.iter().map(place).collect::<Result<_>>()?;
    let row = |(number, line): (usize, &str)| {
        let cells: Vec<&str> = line.split('\t').collect();
        let cell = |&at: &usize| cells.get(at).map(|cell| cell.to_string());
        places.iter().map(cell).collect::<Option<Vec<String>>>().ok_or_else(|| {
            let reason = format!("it has {} fields where the header has {}", cells.len(), header.len());
            Error::input(path, format!("line {}", number + 2), reason)
        })
    };
    lines.enumerate().map(row).collect()
}

/// Reads the entities of each list of groups: title and definition, title and each example, title and what it is a kind of are the local
/// views, all of it together is the global view.
///
/// # Errors
/// `Io`, `InvalidInput` for a file of another shape; `InvalidParams` for groups without entities.
pub fn read_entities(path: &Path, groups: &[&[String]]) -> Result<Vec<Entities>> {
    let rows = read_table(path, &ENTITY_COLUMNS)?;
    let title = |lemmas: &str| lemmas.replace(BETWEEN, ", ");
    let titles: HashMap<&str, String> = rows.iter().map(|row| (row[0].as_str(), title(&row[2]))).collect();
    let mut all = Vec::new();
    for groups in groups {
        let mut entities = Entities { starts: vec![0], ..Entities::default() };
        for (number, row) in rows.iter().enumerate().filter(|(_, row)| groups.contains(&row[1])) {
            let kinds: Vec<&str> = row[5].split(BETWEEN).filter_map(|id| titles.get(id).map(String::as_str)).collect();
            let kind = if kinds.is_empty() { String::new() } else { format!("a kind of {}", kinds.join("; ")) };
            let mut parts: Vec<&str> = vec![&row[3]];
            parts.extend(row[4].split(BETWEEN).chain([kind.as_str()]).filter(|part| !part.trim().is_empty()));
            let wrong = |error: Error| Error::input(path, format!("line {}", number + 2), error.to_string());
            entities.push(&row[0], &titles[row[0].as_str()], &parts).map_err(wrong)?;
        }
        if entities.ids.len() < 2 {
            return Err(Error::params(
                "groups",
                format!("{groups:?} have fewer than two entities in {}", path.display()),
            ));
        }
        all.push(entities);
    }
    Ok(all)
}

impl Entities {
    /// Whether the global view of an entity says what its only local one says.
    pub fn repeats(&self, entity: usize) -> bool {
        self.local[self.starts[entity]..self.starts[entity + 1]] == self.global[entity..=entity]
    }

    fn push(&mut self, id: &str, title: &str, parts: &[&str]) -> Result<()> {
        let limits = ViewLimits::default();
        for part in parts {
            self.local.extend(text_views(title, part, limits)?.local);
        }
        self.starts.push(self.local.len());
        self.global.push(text_views(title, &parts.join(". "), limits)?.global);
        self.ids.push(id.to_string());
        Ok(())
    }
}

/// Reads the mentions of each set of entities: `wanted` of them drawn with `seed`.
///
/// # Errors
/// `Io`, `InvalidInput` for a file of another shape; `InvalidParams` where none of the mentions means one of the entities.
pub fn read_mentions(path: &Path, sets: &[(&Entities, usize)], seed: u64) -> Result<Vec<Mentions>> {
    let rows = read_table(path, &MENTION_COLUMNS)?;
    let words = |text: &str| text.split_whitespace().map(|word| word.replace('_', " ")).collect::<Vec<_>>();
    let mut all = Vec::new();
    for (entities, wanted) in sets {
        let places: HashMap<&str, u32> = entities.ids.iter().map(String::as_str).zip(0..).collect();
        let meant: Vec<(&Vec<String>, u32)> =
            rows.iter().filter_map(|row| Some((row, *places.get(row[3].as_str())?))).collect();
        if meant.is_empty() {
            let reason = format!("no line of {} means one of {} entities", path.display(), places.len());
            return Err(Error::params("mentions", reason));
        }
        let mut mentions = Mentions::default();
        for at in sample_rows(meant.len() as u64, *wanted, seed) {
            let (row, gold) = meant[at as usize];
            let (left, surface, right) = (words(&row[0]), row[1].replace('_', " "), words(&row[2]));
            let near = &left[left.len().saturating_sub(CONTEXT)..];
            let after = &right[..right.len().min(CONTEXT)];
            mentions.contexts.push(format!("{} {surface} {}", near.join(" "), after.join(" ")).trim().to_string());
            mentions.surfaces.push(surface);
            mentions.gold.push(gold);
        }
        all.push(mentions);
    }
    Ok(all)
}

/// The words of mentions and views, and how rare they are among the views.
pub struct Words {
    rarity: Vec<f32>,
    surfaces: Vec<Vec<u32>>,
    contexts: Vec<Vec<u32>>,
}

impl Words {
    /// The words of mentions, and those of local and of global views. Words are runs of letters and digits, in lower case; plural and verb
    /// endings of up to three letters are cut off.
    pub fn new(entities: &Entities, mentions: &Mentions) -> (Words, Vec<Vec<u32>>, Vec<Vec<u32>>) {
        let mut known: HashMap<String, u32> = HashMap::new();
        let mut bags = |texts: &[String]| -> Vec<Vec<u32>> { texts.iter().map(|text| bag(text, &mut known)).collect() };
        let (local, global) = (bags(&entities.local), bags(&entities.global));
        let (surfaces, contexts) = (bags(&mentions.surfaces), bags(&mentions.contexts));
        let mut count = vec![0u32; known.len()];
        global.iter().flatten().for_each(|&word| count[word as usize] += 1);
        let all = global.len() as f32;
        let rarity = |&count: &u32| ((1.0 + all) / (1.0 + count as f32)).ln() / all.max(2.0).ln();
        (Words { rarity: count.iter().map(rarity).collect(), surfaces, contexts }, local, global)
    }

    /// Of the mention's own words, and of the view's words, how much (by rarity) the other has; and how many rare words of the context the
    /// view has beyond those.
    pub fn shared(&self, mention: usize, view: &[u32]) -> [f32; 3] {
        let (surface, context) = (&self.surfaces[mention], &self.contexts[mention]);
        let both = |a: &[u32], b: &[u32]| self.weight(a.iter().filter(|word| b.binary_search(word).is_ok()));
        let share = |part: f32, of: &[u32]| part / self.weight(of.iter()).max(1e-3);
        let beyond = both(context, view) - both(surface, view);
        [share(both(surface, view), surface), share(both(view, context), view), beyond.min(4.0)]
    }

    /// How rare these words are, all in all.
    fn weight<'w>(&self, words: impl Iterator<Item = &'w u32>) -> f32 {
        words.map(|&word| self.rarity[word as usize]).sum()
    }
}

/// The different words of a text, ascending by number.
fn bag(text: &str, known: &mut HashMap<String, u32>) -> Vec<u32> {
    let mut words = BTreeSet::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let lower = word.to_lowercase();
        let stem = ["ing", "ies", "ed", "es", "s", "y"]
            .iter()
            .filter_map(|end| lower.strip_suffix(end))
            .find(|stem| stem.chars().count() >= 3)
            .unwrap_or(&lower);
        let next = known.len() as u32;
        words.insert(*known.entry(stem.to_string()).or_insert(next));
    }
    words.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let entities = "synset\tss_type\tlexfile\tlemmas\tdefinition\texamples\thypernyms\n\
            1\tn\tanimals\towl | hooter\tbird of prey\towls hunt at night | an owl hoots\t2\n\
            2\tn\tanimals\tbird\tanimal with wings\t\t\n\
            3\tn\ttools\thammer\ttool to hit with\t\t\n\
            4\tn\ttools\tsaw\ttool to cut with\t\t\n";
        let mentions = "doc\tleft\tmention\tright\tgold\n\
            d\tThe grey\towls\tcame at night .\t1\n\
            d\tHe hit it with a\thammer\t.\t3\n\
            d\tThey saw\tnothing\t.\t9\n";
        std::fs::write(dir.path().join("e.tsv"), entities).unwrap();
        std::fs::write(dir.path().join("m.tsv"), mentions).unwrap();
        dir
    }

    #[test]
    fn views_of_an_entity_are_its_definition_examples_and_kind() {
        let dir = files();
        let (animals, tools) = (vec!["animals".to_string()], vec!["tools".to_string()]);
        let read = read_entities(&dir.path().join("e.tsv"), &[&animals, &tools]).unwrap();
        assert_eq!(read[0].starts, [0, 4, 5]);
        assert_eq!(read[0].local[0], "owl, hooter. bird of prey");
        assert_eq!(read[0].local[3], "owl, hooter. a kind of bird");
        assert_eq!(read[0].global[0], "owl, hooter. bird of prey. owls hunt at night. an owl hoots. a kind of bird");
        let mentions = read_mentions(&dir.path().join("m.tsv"), &[(&read[0], 10), (&read[1], 10)], 1).unwrap();
        assert_eq!((mentions[0].gold.clone(), mentions[1].gold.clone()), (vec![0], vec![0]));
        assert_eq!(mentions[0].contexts, ["The grey owls came at night ."]);
        let (words, local, _) = Words::new(&read[0], &mentions[0]);
        let [name, _, beyond] = words.shared(0, &local[1]);
        assert!(name > 0.99 && beyond > 0.0, "the example has the name, and the night");
        assert_eq!(words.shared(0, &local[4])[0], 0.0, "a bird is not named owl");
        let missing = vec!["stars".to_string()];
        assert!(read_entities(&dir.path().join("e.tsv"), &[&missing]).unwrap_err().to_string().contains("stars"));
        let error = read_entities(&dir.path().join("m.tsv"), &[&animals]).unwrap_err().to_string();
        assert!(error.contains("synset"), "{error}");
        assert_eq!(
            [0, 1].map(|entity| read[0].repeats(entity)),
            [false, true],
            "a bird has one view, whatever it is called"
        );
        let nameless =
            std::fs::read_to_string(dir.path().join("e.tsv")).unwrap().replace("hammer\ttool to hit with", "\t");
        std::fs::write(dir.path().join("n.tsv"), nameless).unwrap();
        let error = read_entities(&dir.path().join("n.tsv"), &[&animals, &tools]).unwrap_err().to_string();
        assert!(error.contains("n.tsv") && error.contains("line 4") && error.contains("empty"), "{error}");
    }
}
