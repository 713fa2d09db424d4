//! Training curves as an SVG picture.

use super::metrics::EpochMetrics;

/// The curves of a run.
pub fn svg(_title: &str, _epochs: &[EpochMetrics]) -> String {
    String::from("<svg xmlns='http://www.w3.org/2000/svg'/>\n")
}
