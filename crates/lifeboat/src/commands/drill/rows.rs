//! Rows of what was restored beside those of the live database.

use std::collections::BTreeMap;

/// Tables whose rows differ by more than they may, a line each. A table that one side lacks has no
/// rows there. `percent` counts from the greater number; `slack` rows are never too much.
pub(super) fn beyond(
    restored: &BTreeMap<String, u64>,
    live: &BTreeMap<String, u64>,
    (percent, slack): (u64, u64),
) -> Vec<String> {
    let mut tables: Vec<&String> = restored.keys().chain(live.keys()).collect();
    tables.sort();
    tables.dedup();
    let of = |rows: &BTreeMap<String, u64>, table: &str| rows.get(table).copied().unwrap_or(0);
    let lines = tables.into_iter().filter_map(|table| {
        let (was, is) = (of(restored, table), of(live, table));
        let difference = u128::from(was.abs_diff(is));
        let bound = u128::from(was.max(is)) * u128::from(percent) / 100;
        (difference > bound && difference > u128::from(slack))
            .then(|| format!("{table} has {was} rows, live it has {is}"))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_percent_and_slack() {
        let rows = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
            pairs.iter().map(|(name, rows)| ((*name).to_owned(), *rows)).collect()
        };
        let of = |was, is, bounds| beyond(&rows(&[("t", was)]), &rows(&[("t", is)]), bounds).len();
        assert_eq!(of(5_000, 10_000, (50, 0)), 0);
        assert_eq!(of(4_999, 10_000, (50, 0)), 1);
        assert_eq!(of(10_000, 4_999, (50, 0)), 1, "rows that vanished live are told as well");
        assert_eq!(of(0, 1_000, (50, 1_000)), 0);
        assert_eq!(of(0, 1_001, (50, 1_000)), 1);
        assert_eq!(of(1, 0, (0, 0)), 1);
        assert_eq!(of(u64::MAX, 0, (100, 0)), 0);
        let lines = beyond(&rows(&[]), &rows(&[("new", 7)]), (50, 0));
        assert_eq!(lines, ["new has 0 rows, live it has 7"]);
    }
}
