//! What do the figures of all rounds say together?

/// Median, and the 10th and 90th percentile.
#[derive(Clone, Copy)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    /// Of nothing there is none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let at = |tenths| values.get(((values.len().max(1) - 1) * tenths + 5) / 10).copied();
        Some(Self { low: at(1)?, median: at(5)?, high: at(9)? })
    }

    pub fn divided_by(self, unit: f64) -> Self {
        Self { low: self.low / unit, median: self.median / unit, high: self.high / unit }
    }
}
