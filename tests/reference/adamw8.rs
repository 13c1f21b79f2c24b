//! Averages in blocks of 8-bit codes: bitsandbytes' dynamic maps, from its `create_dynamic_map`.

/// Elements of a block.
pub const BLOCK: usize = 256;

/// What the codes stand for.
pub fn dynamic_map(signed: bool) -> Vec<f64> {
    let mut map = vec![0.0, 1.0];
    for i in 0..7 {
        let parts = 2usize.pow(i) * if signed { 1 } else { 2 };
        for part in 0..parts {
            let middle = 0.1 + 0.9 * (part as f64 + 0.5) / parts as f64;
            let value = 10f64.powi(i as i32 - 6) * middle;
            map.push(value);
            if signed {
                map.push(-value);
            }
        }
    }
    map.sort_by(f64::total_cmp);
    assert_eq!(map.len(), 256);
    map
}

/// The numbers of codes with a scale for each block.
pub fn decoded(map: &[f64], codes: &[u8], absmax: &[f64]) -> Vec<f64> {
    codes.iter().enumerate().map(|(i, &code)| map[usize::from(code)] * absmax[i / BLOCK]).collect()
}

/// The largest magnitude of each block.
pub fn scales(x: &[f64]) -> Vec<f64> {
    x.chunks(BLOCK).map(|block| block.iter().fold(0.0, |m: f64, x| m.max(x.abs()))).collect()
}

/// The largest distance of a number from -1 (from 0, unsigned) to 1 from its code.
pub fn largest_error(map: &[f64]) -> f64 {
    let between = map.windows(2).map(|pair| (pair[1] - pair[0]) / 2.0).fold(0.0, f64::max);
    // There is no -1 in the signed map.
    between.max(if map[0] < 0.0 { map[0] + 1.0 } else { map[0] })
}
