//! Entities with several views and mentions of them, for `train-views`: read, encoded, measured.

mod measure;
mod texts;

pub use measure::{Measured, Searched, VARIANTS, Variant, measure};
pub use texts::{Entities, Mentions, Words, read_entities, read_mentions};

use bigrain::encoder::Encoder;
use bigrain::error::Result;
use bigrain::linalg::normalise;
use bigrain::train::{LEXICAL, ViewExamples};
use ndarray::Array2;

/// Weight of a mention's own words beside its context: on mentions that no figure is reported of, with an untrained encoder, 2 found the
/// most.
const OWN_WORDS: f32 = 2.0;
/// Texts that are encoded at once, so that progress and memory stay bounded.
const AT_ONCE: usize = 4_096;

/// Some entities and mentions of them as vectors of unit length.
pub struct Encoded {
    /// n x d.
    pub mentions: Array2<f32>,
    /// The entity of each mention.
    pub gold: Vec<u32>,
    /// Local views, entity by entity.
    pub local: Array2<f32>,
    /// First local view of each entity, then their number.
    pub starts: Vec<usize>,
    /// The global view of each entity.
    pub global: Array2<f32>,
    /// 0, 1, ... up to the number of entities: where global views start.
    pub ones: Vec<usize>,
    words: Words,
}

impl Encoded {
    /// Encodes them. The vector of a mention is the sum of that of its own words and that of its context.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn new(encoder: &Encoder, entities: &Entities, mentions: &Mentions) -> Result<Encoded> {
        let mut asked = encode(encoder, &mentions.contexts)?;
        asked.scaled_add(OWN_WORDS, &encode(encoder, &mentions.surfaces)?);
        asked.rows_mut().into_iter().for_each(|mut row| {
            normalise(row.as_slice_mut().expect("C order"));
        });
        Ok(Encoded {
            mentions: asked,
            gold: mentions.gold.clone(),
            local: encode(encoder, &entities.local)?,
            starts: entities.starts.clone(),
            global: encode(encoder, &entities.global)?,
            ones: (0..=entities.global.len()).collect(),
            words: Words::new(entities, mentions),
        })
    }

    /// What is trained on; of one view an entity, the global one, where `single`.
    pub fn with_examples<T>(&self, single: bool, work: impl FnOnce(&ViewExamples<'_>) -> T) -> T {
        let (views, starts) = if single { (&self.global, &self.ones) } else { (&self.local, &self.starts) };
        let lexical = |mention: usize, view: usize| -> [f32; LEXICAL] {
            let alike = self.mentions.row(mention).dot(&views.row(view));
            let [name, context, shared] = self.words.shared(mention, single, view);
            [4.0 * alike, name, context, shared]
        };
        work(&ViewExamples {
            mentions: self.mentions.view(),
            gold: &self.gold,
            views: views.view(),
            starts,
            lexical: &lexical,
        })
    }
}

fn encode(encoder: &Encoder, texts: &[String]) -> Result<Array2<f32>> {
    let mut all = Array2::zeros((texts.len(), encoder.dim()));
    for (at, some) in (0..).step_by(AT_ONCE).zip(texts.chunks(AT_ONCE)) {
        all.slice_mut(ndarray::s![at..at + some.len(), ..]).assign(&encoder.encode(some)?);
    }
    Ok(all)
}
