use spikeshade::kernels::attention::kv_shape;
use spikeshade::kernels::attention_kv::AttentionKv;
use spikeshade::recording::Recording;
use spikeshade::reference::attention_kv::attention_kv;
use spikeshade::tensor::{Element, Tensor};

use crate::attention::{cases, positive};
use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    check(48, cases(), |case| {
        let (_, qkv) = case.data();
        let all = run(|| {
            let mut r = Recording::default();
            let (_, v) = case.record(&mut r, &qkv);
            for (i, (&heads, k)) in case.windows.iter().zip(&qkv.k).enumerate() {
                let k = real(&mut r, k, case.window(heads));
                let m = output(&mut r, &format!("m{i}"), Element::Real, kv_shape(case.shape, heads));
                r.push(AttentionKv { layer: "attn".to_owned(), k, v, m, heads });
            }
            r
        });
        variants_same(&all, |_| false);
        for (i, (&heads, k)) in case.windows.iter().zip(&qkv.k).enumerate() {
            let k = f64s(&padded(k, heads.count * heads.dim));
            let shape = kv_shape(case.shape, heads);
            let of = |v: &[u32]| {
                let mut m = vec![0.0; Tensor { name: String::new(), element: Element::Real, shape }.len()];
                attention_kv(&k, v, case.shape, heads, &mut m);
                m
            };
            reals_agree(&all, &format!("m{i}"), case.kind, &of(&qkv.v), &of(&positive(&qkv.v, case.shape)));
        }
    });
}
