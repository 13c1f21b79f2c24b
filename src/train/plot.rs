//! loss.svg: the training and evaluation losses of a run.

use std::path::Path;

use plotters::prelude::*;

use crate::formats::write_atomic;
use crate::train::metrics::Record;
use crate::{Error, Result};

const SIZE: (u32, u32) = (900, 500);
const TRAIN: RGBColor = RGBColor(31, 119, 180);
const EVAL: RGBColor = RGBColor(214, 39, 40);

/// Draws the losses of `records` over their steps into an SVG file. Nothing is written while there is no loss.
pub fn loss_svg(path: &Path, records: &[Record]) -> Result<()> {
    let points = |loss: fn(&Record) -> Option<f64>| -> Vec<(f64, f64)> {
        records.iter().filter_map(|r| Some((r.step as f64, loss(r)?))).collect()
    };
    let (train, eval) = (points(|r| r.loss), points(|r| r.eval_loss));
    if train.is_empty() && eval.is_empty() {
        return Ok(());
    }
    let mut svg = String::new();
    draw(&mut svg, &train, &eval).map_err(|e| Error::format(path, format!("cannot be drawn: {e}")))?;
    write_atomic(path, |out| out.write_all(svg.as_bytes()).map_err(Error::io(path, "cannot write")))
}

fn draw(
    svg: &mut String,
    train: &[(f64, f64)],
    eval: &[(f64, f64)],
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let all = || train.iter().chain(eval);
    let (low, high) = all().fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p.1), h.max(p.1)));
    let last = all().fold(1.0, |m: f64, p| m.max(p.0));
    // A flat curve still needs an axis of some height.
    let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-6);

    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(15)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..last, (low - margin)..(high + margin))?;
    chart
        .configure_mesh()
        .x_desc("optimizer step")
        .y_desc("loss (nats per token)")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .light_line_style(WHITE)
        .draw()?;
    let key =
        |color: RGBColor| move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], color.stroke_width(2));
    if !train.is_empty() {
        chart
            .draw_series(LineSeries::new(train.iter().copied(), TRAIN.stroke_width(1)))?
            .label("training")
            .legend(key(TRAIN));
    }
    if !eval.is_empty() {
        chart
            .draw_series(LineSeries::new(eval.iter().copied(), EVAL.stroke_width(2)))?
            .label("validation")
            .legend(key(EVAL));
        chart.draw_series(eval.iter().map(|&p| Circle::new(p, 3, EVAL.filled())))?;
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
