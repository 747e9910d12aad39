//! A small line of how long the last runs took.

use maud::{Markup, html};

use crate::ui::units;

/// The drawing's size in its own units.
const WIDTH: f64 = 120.0;
const HEIGHT: f64 = 24.0;

/// How long runs took, the oldest first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spark<'a> {
    /// What took so long: "backups".
    pub(crate) of: &'a str,
    /// Milliseconds.
    pub(crate) durations_ms: &'a [u64],
}

impl Spark<'_> {
    /// What it shows, in a sentence.
    pub(crate) fn sentence(&self) -> String {
        let times = self.durations_ms;
        let (Some(least), Some(most), Some(last)) =
            (times.iter().min(), times.iter().max(), times.last())
        else {
            return format!("no {} yet", self.of);
        };
        if let [only] = times {
            return format!("the only one of its {} took {}", self.of, units::duration(*only));
        }
        format!(
            "the last {} {} took {} to {}, the newest {}",
            times.len(),
            self.of,
            units::duration(*least),
            units::duration(*most),
            units::duration(*last),
        )
    }

    /// The line; nothing where there are fewer than two to connect.
    pub(crate) fn drawn(&self) -> Markup {
        let most = self.durations_ms.iter().max().copied().unwrap_or(0).max(1) as f64;
        let steps = self.durations_ms.len().saturating_sub(1).max(1) as f64;
        let place = |(index, time): (usize, &u64)| {
            let x = 2.0 + index as f64 / steps * (WIDTH - 4.0);
            let y = HEIGHT - 3.0 - *time as f64 / most * (HEIGHT - 6.0);
            (x, y)
        };
        let places: Vec<(f64, f64)> = self.durations_ms.iter().enumerate().map(place).collect();
        let points: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        html! {
            @if let [_, .., (x, y)] = places[..] {
                svg.spark role="img" width="120" height="24" viewBox="0 0 120 24"
                    aria-label=(self.sentence())
                {
                    title { (self.sentence()) }
                    polyline.line points=(points.join(" ")) {}
                    circle.last cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="2" {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_shows() {
        let spark = Spark { of: "backups", durations_ms: &[2_000, 8_000, 4_000] };
        let drawn = spark.drawn().into_string();
        assert!(drawn.contains("the last 3 backups took 2.0 s to 8.0 s, the newest 4.0 s"));
        // The longest is at the top.
        assert!(drawn.contains("2.0,16.5 60.0,3.0 118.0,12.0"), "{drawn}");
    }

    #[test]
    fn one_or_none_has_no_line() {
        for durations_ms in [&[][..], &[5]] {
            assert!(Spark { of: "drills", durations_ms }.drawn().into_string().is_empty());
        }
        assert_eq!(Spark { of: "drills", durations_ms: &[] }.sentence(), "no drills yet");
        let only = Spark { of: "drills", durations_ms: &[5] }.sentence();
        assert_eq!(only, "the only one of its drills took 5 ms");
        let zeros = Spark { of: "drills", durations_ms: &[0, 0] }.drawn().into_string();
        assert!(!zeros.contains("NaN"), "{zeros}");
    }
}
