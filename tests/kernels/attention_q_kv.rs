use spikeshade::kernels::attention::kv_shape;
use spikeshade::kernels::attention_q_kv::AttentionQKv;
use spikeshade::recording::Recording;
use spikeshade::reference::attention_q_kv::attention_q_kv;
use spikeshade::tensor::Element;

use crate::attention::cases;
use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    check(48, cases(), |case| {
        let (mut data, qkv) = case.data();
        // Any M will do, of either sign; what lies outside a head's d × d is not read.
        let shapes: Vec<_> = case.windows.iter().map(|&heads| kv_shape(case.shape, heads)).collect();
        let m: Vec<Vec<f32>> =
            shapes.iter().map(|s| data.reals(s.steps * s.rows() * s.channels, -64..=64, 0.25)).collect();
        let all = run(|| {
            let mut r = Recording::default();
            let (q, _) = case.record(&mut r, &qkv);
            for (i, &heads) in case.windows.iter().enumerate() {
                let m = real(&mut r, &m[i], shapes[i]);
                let o = output(&mut r, &format!("o{i}"), Element::Real, case.window(heads));
                r.push(AttentionQKv { layer: "attn".to_owned(), q, m, o, heads });
            }
            r
        });
        for (i, &heads) in case.windows.iter().enumerate() {
            let channels = heads.count * heads.dim;
            let of = |m: &[f64]| {
                let mut o = vec![0.0; case.shape.steps * case.shape.rows() * channels.next_multiple_of(4)];
                attention_q_kv(&qkv.q, m, case.shape, heads, &mut o);
                unpadded(&o, channels)
            };
            let m = f64s(&m[i]);
            reals_agree(&all, &format!("o{i}"), case.kind, &of(&m), &of(&magnitudes(&m)));
        }
    });
}
