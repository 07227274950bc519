//! Made ads: products, replicated with jitter, each in an ad group of a campaign of an advertiser.
//!
//! Real catalogues repeat a product in sizes, colours and markets; here copy 0 of a product is the product, and every further copy
//! is its vector moved by noise of 0.4 times its length, with a price of its own. What is drawn for an ad depends on the
//! seed and its number alone, so that any number of ads begins like any smaller number of them.
//!
//! | attribute | |
//! |---|---|
//! | `title`, `supplier`, `price_cents` | the product's, the price moved by up to 30 % |
//! | `country` | one of 24, skewed |
//! | `segment` | 0 to 999, each alike and without any relation to the vector: `segment < 10` passes 1 % of the ads |
//! | `audiences` | up to three of 40 |
//! | `adult` | true for one in fifty |
//! | `ad_group` | see below |
//!
//! Every tenth ad belongs to campaign 1 of advertiser 1, which has a thousand ad groups: the one to pause. The others belong to the advertiser that
//! is their supplier, to one of its campaigns and one of that campaign's ad groups. Bids and click rates are log-normal, by
//! ad group.

use bigrain::linalg::normalise;
use bigrain::sample::Rng;
use serde_json::{Value, json};

/// Length of the noise, relative to that of the vector.
const JITTER: f32 = 0.4;
/// Ad groups of campaign 1.
const WIDE_GROUPS: u64 = 1_000;
/// Campaigns of other advertisers, and ad groups of each.
const CAMPAIGNS: u64 = 8;
const GROUPS: u64 = 40;
const COUNTRIES: [&str; 24] = [
    "US", "GB", "DE", "FR", "JP", "IN", "BR", "ES", "IT", "NL", "PL", "SE", "CA", "MX", "AU", "KR", "TR", "BE", "CH",
    "AT", "DK", "FI", "NO", "PT",
];
const AUDIENCES: u64 = 40;

/// A product to make ads of.
#[derive(Clone, Debug)]
pub struct Product {
    /// Title.
    pub title: String,
    /// Supplier.
    pub supplier: String,
    /// Number of the supplier, from 0.
    pub supplier_number: u64,
    /// Price.
    pub price_cents: i64,
}

/// Makes ads of products.
#[derive(Debug)]
pub struct Maker<'a> {
    products: &'a [Product],
    /// n x d.
    vectors: &'a [f32],
    seed: u64,
}

impl<'a> Maker<'a> {
    /// Of products and their vectors, as many of each.
    pub fn new(products: &'a [Product], vectors: &'a [f32], seed: u64) -> Maker<'a> {
        Maker { products, vectors, seed }
    }

    fn dim(&self) -> usize {
        self.vectors.len() / self.products.len()
    }

    /// The vector of ad `number`, of length 1, into `out`.
    pub fn vector(&self, number: u64, out: &mut [f32]) {
        let (product, copy) = self.place(number);
        out.copy_from_slice(&self.vectors[product * self.dim()..][..self.dim()]);
        normalise(out);
        if copy > 0 {
            let mut random = Rng::stream(self.seed, 2 * number);
            let spread = JITTER / (out.len() as f32).sqrt();
            out.iter_mut().for_each(|value| *value += spread * random.normal());
            normalise(out);
        }
    }

    /// The record of ad `number`.
    pub fn record(&self, number: u64) -> Value {
        let (product, copy) = self.place(number);
        let product = &self.products[product];
        let mut random = Rng::stream(self.seed, 2 * number + 1);
        let factor = if copy == 0 { 1.0 } else { 0.7 + 0.6 * random.unit_f64() };
        // The square of a uniform number makes the first ones the most frequent.
        let country = (random.unit_f64().powi(2) * COUNTRIES.len() as f64) as usize;
        let segment = random.below(1_000);
        let audiences: Vec<String> =
            (0..random.below(4)).map(|_| format!("audience-{:02}", random.below(AUDIENCES))).collect();
        let adult = random.below(50) == 0;
        json!({
            "title": product.title, "supplier": product.supplier,
            "price_cents": (product.price_cents as f64 * factor) as i64,
            "country": COUNTRIES[country.min(COUNTRIES.len() - 1)], "segment": segment, "audiences": audiences, "adult": adult,
            "ad_group": self.ad_group(number, product.supplier_number, &mut random),
        })
    }

    fn place(&self, number: u64) -> (usize, u64) {
        let products = self.products.len() as u64;
        ((number % products) as usize, number / products)
    }

    /// Ad groups 1 to [`WIDE_GROUPS`] are those of campaign 1.
    fn ad_group(&self, number: u64, supplier: u64, random: &mut Rng) -> u64 {
        if number % 10 == 9 {
            return 1 + random.below(WIDE_GROUPS);
        }
        let campaign = supplier * CAMPAIGNS + random.below(CAMPAIGNS);
        1 + WIDE_GROUPS + campaign * GROUPS + random.below(GROUPS)
    }

    /// The whole control table, an entity a line: advertisers, campaigns, ad groups.
    pub fn control(&self, mut line: impl FnMut(Value) -> std::io::Result<()>) -> std::io::Result<()> {
        let suppliers = self.products.iter().map(|product| product.supplier_number + 1).max().unwrap_or(0);
        line(json!({"level": "advertiser", "id": 1, "status": "active"}))?;
        line(json!({"level": "campaign", "id": 1, "parent": 1, "status": "active"}))?;
        let mut random = Rng::new(self.seed);
        let mut group = |id: u64, campaign: u64| {
            let bid = (500_000.0 * (0.7 * random.normal()).exp()) as u64;
            let ctr = (0.02 * (0.5 * random.normal()).exp()).min(1.0);
            json!({"level": "ad_group", "id": id, "parent": campaign, "bid_micros": bid, "ctr": ctr})
        };
        (1..=WIDE_GROUPS).try_for_each(|id| line(group(id, 1)))?;
        for supplier in 0..suppliers {
            let advertiser = supplier + 2;
            line(json!({"level": "advertiser", "id": advertiser, "status": "active"}))?;
            for campaign in supplier * CAMPAIGNS..(supplier + 1) * CAMPAIGNS {
                line(json!({"level": "campaign", "id": campaign + 2, "parent": advertiser}))?;
                let first = 1 + WIDE_GROUPS + campaign * GROUPS;
                (first..first + GROUPS).try_for_each(|id| line(group(id, campaign + 2)))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ads_depend_on_their_number_and_belong_to_groups_that_the_table_has() {
        let products: Vec<Product> = (0..7)
            .map(|n| Product {
                title: format!("thing {n}"),
                supplier: format!("maker {}", n % 3),
                supplier_number: n % 3,
                price_cents: 1_000,
            })
            .collect();
        let vectors: Vec<f32> = (0..7 * 8).map(|i| (i as f32 * 0.7).sin()).collect();
        let maker = Maker::new(&products, &vectors, 5);
        let mut groups = std::collections::HashSet::new();
        maker
            .control(|line| {
                if line["level"] == "ad_group" {
                    groups.insert(line["id"].as_u64().unwrap());
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(groups.len() as u64, WIDE_GROUPS + 3 * CAMPAIGNS * GROUPS);
        let (mut one, mut other) = (vec![0.0; 8], vec![0.0; 8]);
        for number in 0..100 {
            let record = maker.record(number);
            assert_eq!(record, maker.record(number));
            assert!(groups.contains(&record["ad_group"].as_u64().unwrap()));
            maker.vector(number, &mut one);
            maker.vector(number % 7, &mut other);
            let likeness: f32 = one.iter().zip(&other).map(|(a, b)| a * b).sum();
            assert!(likeness > 0.6 && (number < 7) == (likeness > 0.9999), "{number}: {likeness}");
        }
    }
}
