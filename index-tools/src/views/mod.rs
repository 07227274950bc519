//! Entities with several views and mentions of them, for `train-views`: read, encoded, measured.

mod encode;
mod measure;
mod offset;
mod texts;

pub use encode::Encode;
pub use measure::{Answers, Measured, Searched, VARIANTS, Variant, measure};
pub use offset::{Moved, moved};
pub use texts::{Entities, Mentions, Words, read_entities, read_mentions};

use bigrain::error::Result;
use bigrain::linalg::normalise;
use bigrain::train::{LEXICAL, ViewExamples};
use ndarray::Array2;

/// Weight of a mention's own words beside its context: on mentions that no figure is reported of, with an untrained encoder, 2 found the
/// most.
const OWN_WORDS: f32 = 2.0;

/// Some entities and mentions of them as vectors of unit length.
pub struct Encoded {
    /// n x d.
    pub mentions: Array2<f32>,
    /// The entity of each mention.
    pub gold: Vec<u32>,
    /// The views of each variant, in the order of [`VARIANTS`].
    sets: [ViewSet; 3],
    words: Words,
}

/// Views of all entities.
pub struct ViewSet {
    /// Entity by entity, of unit length: m x d.
    pub vectors: Array2<f32>,
    /// First view of each entity, then their number.
    pub starts: Vec<usize>,
    /// Numbers of their words.
    words: Vec<Vec<u32>>,
}

/// Vectors of the views of some entities; they are the same for all mentions.
pub struct EntityVectors {
    local: Array2<f32>,
    global: Array2<f32>,
}

impl EntityVectors {
    /// Encodes them.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn new(encode: &Encode<'_>, entities: &Entities) -> Result<EntityVectors> {
        Ok(EntityVectors { local: encode.texts(&entities.local)?, global: encode.texts(&entities.global)? })
    }
}

impl Encoded {
    /// Encodes the mentions. The vector of a mention is the sum of that of its own words and that of its context.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn new(
        encode: &Encode<'_>,
        entities: &Entities,
        vectors: &EntityVectors,
        mentions: &Mentions,
    ) -> Result<Encoded> {
        let mut asked = encode.texts(&mentions.contexts)?;
        asked.scaled_add(OWN_WORDS, &encode.texts(&mentions.surfaces)?);
        asked.rows_mut().into_iter().for_each(|mut row| {
            normalise(row.as_slice_mut().expect("C order"));
        });
        let EntityVectors { local, global } = vectors;
        let (words, of_local, of_global) = Words::new(entities, mentions);
        let starts = (0..=entities.global.len()).collect();
        let single = ViewSet { vectors: global.clone(), starts, words: of_global };
        let local = ViewSet { vectors: local.clone(), starts: entities.starts.clone(), words: of_local };
        let both = single.before(&local, &|entity| entities.repeats(entity));
        Ok(Encoded { mentions: asked, gold: mentions.gold.clone(), sets: [single, local, both], words })
    }

    /// Number of entities.
    pub fn entities(&self) -> usize {
        self.views(Variant::Single).vectors.nrows()
    }

    /// The views of a variant.
    pub fn views(&self, variant: Variant) -> &ViewSet {
        &self.sets[variant as usize]
    }

    /// What is trained on, with the views of a variant.
    pub fn with_examples<T>(&self, variant: Variant, work: impl FnOnce(&ViewExamples<'_>) -> T) -> T {
        let ViewSet { vectors: views, starts, words } = self.views(variant);
        let lexical = |mention: usize, view: usize| -> [f32; LEXICAL] {
            let alike = self.mentions.row(mention).dot(&views.row(view));
            let [name, context, shared] = self.words.shared(mention, &words[view]);
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

impl ViewSet {
    /// The views of this before the other ones of each entity, but of those that `leave_out` names.
    fn before(&self, others: &ViewSet, leave_out: &dyn Fn(usize) -> bool) -> ViewSet {
        let (mut vectors, mut words, mut starts) = (Vec::new(), Vec::new(), vec![0]);
        for entity in 0..self.starts.len() - 1 {
            for set in [self, others].into_iter().skip(usize::from(leave_out(entity))) {
                for view in set.starts[entity]..set.starts[entity + 1] {
                    vectors.extend(set.vectors.row(view));
                    words.push(set.words[view].clone());
                }
            }
            starts.push(words.len());
        }
        let shape = (words.len(), self.vectors.ncols());
        ViewSet { vectors: Array2::from_shape_vec(shape, vectors).expect("whole rows"), starts, words }
    }
}
