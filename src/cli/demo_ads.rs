//! The bundled products as ads: each in an ad group of its supplier, with a bid.
//!
//! Bids and click rates are made up from the supplier's number; everything else is the catalogue's.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use bigrain::ads::Collection;
use bigrain::ads::control::{Field, Level, Patch, Status};
use bigrain::error::{Error, Result};
use serde_json::json;

/// Bids between these, in millionths of the currency.
const BIDS: std::ops::Range<u64> = 50_000..2_000_000;

/// Writes the products of a table as records with an ad group into `output`; the suppliers with the number of their ad group.
pub(super) fn write_records(products: &Path, output: &Path) -> Result<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string(products).map_err(Error::io(products))?;
    let mut suppliers: BTreeMap<String, u64> = BTreeMap::new();
    let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split('\t').collect()).collect();
    for row in &rows {
        let next = suppliers.len() as u64 + 1;
        let supplier = row.get(2).ok_or_else(|| Error::input(products, "a line", "it has no supplier"))?;
        suppliers.entry(supplier.to_string()).or_insert(next);
    }
    let write = || {
        let mut out = std::io::BufWriter::new(std::fs::File::create(output)?);
        for row in &rows {
            let price: i64 = row.get(3).and_then(|cents| cents.parse().ok()).unwrap_or(0);
            let (title, supplier) = (row[1], row[2]);
            let record =
                json!({"title": title, "supplier": supplier, "price_cents": price, "ad_group": suppliers[supplier]});
            writeln!(out, "{record}")?;
        }
        out.flush()
    };
    write().map_err(Error::io(output))?;
    Ok(suppliers)
}

/// Describes an advertiser, a campaign and an ad group for each supplier, all with the supplier's number.
pub(super) fn describe(collection: &Collection, suppliers: &BTreeMap<String, u64>) -> Result<()> {
    let mut patches = Vec::new();
    for &number in suppliers.values() {
        let below = |level, parent| Patch { parent: Field::Set(parent), ..Patch::new(level, number) };
        // A multiplicative hash spreads the numbers evenly.
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
        let bid = BIDS.start + spread % (BIDS.end - BIDS.start);
        let ctr = 0.005 + (spread >> 20) as f32 % 1_000.0 / 1_000.0 * 0.03;
        patches.push(Patch { status: Field::Set(Status::Active), ..Patch::new(Level::Advertiser, number) });
        patches.push(below(Level::Campaign, number));
        patches.push(Patch { bid_micros: Field::Set(bid), ctr: Field::Set(ctr), ..below(Level::AdGroup, number) });
    }
    collection.patch_control(patches).map(drop)
}
