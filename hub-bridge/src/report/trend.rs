//! Where a row of figures is heading: the least-squares line through it, and the change from one to the next.

/// A line through figures at 0, 1, 2 …; figures that are missing are left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// By how much the line rises from one figure to the next.
    pub slope: f64,
    /// The figures' mean.
    pub mean: f64,
}

impl Trend {
    /// `None` for fewer than three figures: a line through two is no trend.
    pub fn of(figures: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let (mut n, mut sx, mut sy, mut sxx, mut sxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let mut x = 0.0;
        for figure in figures {
            if let Some(y) = figure {
                n += 1.0;
                sx += x;
                sy += y;
                sxx += x * x;
                sxy += x * y;
            }
            x += 1.0;
        }
        (n >= 3.0).then(|| Self {
            slope: (n * sxy - sx * sy) / (n * sxx - sx * sx),
            mean: sy / n,
        })
    }

    /// The slope in % of the mean; `None` for a mean of 0.
    pub fn slope_pct(&self) -> Option<f64> {
        (self.mean != 0.0).then(|| self.slope / self.mean * 100.0)
    }
}

/// The change in %; `None` where there was nothing before.
pub fn change_pct(before: Option<f64>, now: Option<f64>) -> Option<f64> {
    let (before, now) = (before?, now?);
    (before != 0.0).then(|| (now - before) / before * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_with_holes_too() {
        let trend = Trend::of([Some(10.0), Some(12.0), None, Some(16.0)]).unwrap();
        assert!((trend.slope - 2.0).abs() < 1e-12);
        assert!((trend.mean - 38.0 / 3.0).abs() < 1e-12);
        let flat = Trend::of([Some(0.0); 4]).unwrap();
        assert!(flat.slope.abs() < 1e-12);
        assert_eq!(flat.slope_pct(), None);
        assert_eq!(Trend::of([Some(1.0), None, Some(2.0)]), None);
        assert_eq!(change_pct(Some(50.0), Some(60.0)), Some(20.0));
        assert_eq!(change_pct(Some(0.0), Some(60.0)), None);
        assert_eq!(change_pct(None, Some(60.0)), None);
    }
}
