//! Bars as SVG: for each row its arms, as long as their share of the longest.

use std::fmt::Write as _;

use super::Found;
use super::page::number;
use super::plan::{Figure, Row};

const WIDTH: usize = 760;
const LABEL: u16 = 220;
const BAR: f64 = 400.0;
const LINE: usize = 20;

/// All rows that have that figure; `None` where none has.
pub(super) fn bars(rows: &[(&Row, &Found)], figure: Figure) -> Option<String> {
    let mut y = 2 * LINE;
    let mut inside = String::new();
    let mut under = "";
    for (row, found) in rows {
        let arms: Vec<(&str, f64)> = found
            .arms
            .iter()
            .filter_map(|(name, _)| Some((name.as_str(), found.median(name, figure)?)))
            .collect();
        let longest = arms.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        if arms.len() < 2 || longest <= 0.0 {
            continue;
        }
        let _ = writeln!(
            inside,
            "<text x=\"8\" y=\"{y}\" class=\"t\">{}</text>",
            escaped(&row.title)
        );
        under = &found.how;
        for (name, value) in arms {
            y += LINE;
            let class = if name == "boxgate" { "b" } else { "o" };
            let length = value / longest * BAR;
            let text = y - 5;
            let _ = writeln!(
                inside,
                "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text><rect x=\"{LABEL}\" y=\"{}\" width=\"{length:.1}\" \
                 height=\"14\" class=\"{class}\"/><text x=\"{:.1}\" y=\"{text}\">{}</text>",
                LABEL - 8,
                escaped(name),
                y - 16,
                f64::from(LABEL) + length + 6.0,
                number(value)
            );
        }
        y += LINE + 12;
    }
    (!inside.is_empty()).then(|| {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <style>text{{fill:#333}}.t{{font-weight:bold}}.b{{fill:#2563a8}}.o{{fill:#a9b4c0}}</style>\n\
             <rect width=\"{WIDTH}\" height=\"{}\" fill=\"#fff\"/>\n\
             <text x=\"8\" y=\"16\" font-size=\"14\">{}</text>\n{inside}\
             <text x=\"8\" y=\"{}\" font-size=\"10\">{}</text>\n</svg>\n",
            y + LINE,
            y + LINE,
            escaped(figure.label()),
            y + 4,
            escaped(under)
        )
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
