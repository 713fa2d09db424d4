use spikeshade::kernels::attention::kv_shape;
use spikeshade::kernels::attention_kv::AttentionKv;
use spikeshade::kernels::attention_q_kv::AttentionQKv;
use spikeshade::kernels::attention_qk_v::AttentionQkV;
use spikeshade::recording::Recording;
use spikeshade::reference::attention_qk_v::attention_qk_v;
use spikeshade::tensor::Element;

use crate::attention::{cases, positive};
use crate::harness::*;

#[test]
fn agrees_with_its_twin_and_with_the_other_order() {
    check(48, cases(), |case| {
        let (_, qkv) = case.data();
        let all = run(|| {
            let mut r = Recording::default();
            let (q, v) = case.record(&mut r, &qkv);
            for (i, (&heads, k)) in case.windows.iter().zip(&qkv.k).enumerate() {
                let layer = || "attn".to_owned();
                let k = real(&mut r, k, case.window(heads));
                let o = output(&mut r, &format!("(qk)v {i}"), Element::Real, case.window(heads));
                r.push(AttentionQkV { layer: layer(), q, k, v, o, heads });
                let m = r.tensor("m", Element::Real, kv_shape(case.shape, heads));
                r.push(AttentionKv { layer: layer(), k, v, m, heads });
                let o = output(&mut r, &format!("q(kv) {i}"), Element::Real, case.window(heads));
                r.push(AttentionQKv { layer: layer(), q, m, o, heads });
            }
            r
        });
        for (i, (&heads, k)) in case.windows.iter().zip(&qkv.k).enumerate() {
            let channels = heads.count * heads.dim;
            let k = f64s(&padded(k, channels));
            let of = |v: &[u32]| {
                let mut o = vec![0.0; case.shape.steps * case.shape.rows() * channels.next_multiple_of(4)];
                attention_qk_v(&qkv.q, &k, v, case.shape, heads, &mut o);
                unpadded(&o, channels)
            };
            let (expected, terms) = (of(&qkv.v), of(&positive(&qkv.v, case.shape)));
            reals_agree(&all, &format!("(qk)v {i}"), case.kind, &expected, &terms);
            reals_agree(&all, &format!("q(kv) {i}"), case.kind, &expected, &terms);
        }
    });
}
