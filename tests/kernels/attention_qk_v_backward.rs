use spikeshade::kernels::attention::kv_shape;
use spikeshade::kernels::attention_qk_v_backward::{
    AttentionQkVGradKeys, AttentionQkVGradQueries, AttentionQkVGradValues,
};
use spikeshade::recording::Recording;
use spikeshade::reference::attention_kv_backward::attention_kv_grad_keys;
use spikeshade::reference::attention_q_kv_backward::attention_q_kv_grad_kv;
use spikeshade::reference::attention_qk_v::attention_qk_v;
use spikeshade::reference::attention_qk_v_backward::Window;
use spikeshade::tensor::{Element, Tensor, vectors};

use crate::attention::{cases, positive};
use crate::harness::*;
use crate::product_backward::{adjoint, inner};

#[test]
fn agrees_with_its_twin_is_the_adjoint_and_agrees_with_the_other_order() {
    check(40, cases(), |case| {
        let (mut data, qkv) = case.data();
        let (shape, channels) = (case.shape, case.shape.channels);
        let tokens = shape.steps * shape.rows();
        let g: Vec<Vec<f32>> =
            case.windows.iter().map(|&heads| data.reals(tokens * heads.count * heads.dim, -16..=16, 0.125)).collect();
        let all = run(|| {
            let mut r = Recording::default();
            let (q, v) = case.record(&mut r, &qkv);
            let dq = output(&mut r, "dq", Element::Real, shape);
            let dv = output(&mut r, "dv", Element::Real, shape);
            for (i, &heads) in case.windows.iter().enumerate() {
                let layer = "attn".to_owned();
                let k = real_padded_with(&mut r, &qkv.k[i], case.window(heads), f32::NAN);
                let g = real_padded_with(&mut r, &g[i], case.window(heads), f32::NAN);
                let dk = output(&mut r, &format!("dk{i}"), Element::Real, case.window(heads));
                r.push(AttentionQkVGradQueries { layer: layer.clone(), k, v, g, dq, heads });
                r.push(AttentionQkVGradKeys { layer: layer.clone(), q, k, v, g, dk, heads });
                r.push(AttentionQkVGradValues { layer, q, k, g, dv, heads });
            }
            r
        });
        if case.kind == Kind::Dyadic {
            all_same(&all);
        }
        let positive = positive(&qkv.v, shape);
        // The windows' channels make up dQ and dV.
        let zeros = || vec![0.0; tokens * 4 * vectors(channels)];
        let (mut dq, mut dv, mut dq_terms, mut dv_terms) = (zeros(), zeros(), zeros(), zeros());
        let (mut sum, mut sum_terms) = (0.0, 0.0);
        for (i, &heads) in case.windows.iter().enumerate() {
            let of_window = heads.count * heads.dim;
            let (k, g) = (f64s(&padded(&qkv.k[i], of_window)), f64s(&padded(&g[i], of_window)));
            let g_terms = magnitudes(&g);
            let window = Window { g: &g, shape, heads };
            let terms = Window { g: &g_terms, shape, heads };
            window.queries(&k, &qkv.v, &mut dq);
            terms.queries(&k, &positive, &mut dq_terms);
            window.values(&qkv.q, &k, &mut dv);
            terms.values(&qkv.q, &k, &mut dv_terms);
            let (mut dk, mut dk_terms) = (vec![0.0; k.len()], vec![0.0; k.len()]);
            window.keys(&qkv.q, &k, &qkv.v, &mut dk);
            terms.keys(&qkv.q, &k, &positive, &mut dk_terms);
            let name = format!("dk{i}");
            reals_agree(&all, &name, case.kind, &unpadded(&dk, of_window), &unpadded(&dk_terms, of_window));

            // <g, (Q kᵀ) V> = <dK, k> for k that are silent where K is, as far as the ReLU lets through.
            let other = data.reals(k.len(), 1..=16, 0.3);
            let other: Vec<f64> =
                k.iter().zip(&other).map(|(&k, &x)| if k > 0.0 { f64::from(x) } else { 0.0 }).collect();
            let mut o = vec![0.0; g.len()];
            attention_qk_v(&qkv.q, &other, &qkv.v, shape, heads, &mut o);
            adjoint("dk", inner(&g, &o), inner(&dk, &other), inner(&dk_terms, &other));
            attention_qk_v(&qkv.q, &k, &qkv.v, shape, heads, &mut o);
            sum += inner(&g, &o);
            sum_terms += inner(&dk_terms, &k);

            // Equal to the other order's, whatever the data, but for rounding.
            let m_shape = kv_shape(shape, heads);
            let len = Tensor { name: String::new(), element: Element::Real, shape: m_shape }.len();
            let mut dm = vec![0.0; len];
            attention_q_kv_grad_kv(&qkv.q, &g, shape, heads, &mut dm);
            let mut other_dk = vec![0.0; k.len()];
            attention_kv_grad_keys(&k, &qkv.v, &dm, shape, heads, &mut other_dk);
            for ((a, b), terms) in dk.iter().zip(&other_dk).zip(&dk_terms) {
                adjoint("dk in the other order", *a, *b, *terms);
            }
        }
        let [dq, dv, dq_terms, dv_terms] = [dq, dv, dq_terms, dv_terms].map(|x| unpadded(&x, channels));
        reals_agree(&all, "dq", case.kind, &dq, &dq_terms);
        reals_agree(&all, "dv", case.kind, &dv, &dv_terms);
        // <g, (Q Kᵀ) V> = <dQ, Q> = <dV, V>, over all windows
        let floats = |signs: Vec<i8>| signs.iter().map(|&s| f64::from(s)).collect::<Vec<f64>>();
        let q = floats(signs_of_words(&qkv.q, Element::Spikes, channels));
        let v = floats(signs_of_words(&qkv.v, Element::Ternary, channels));
        adjoint("dq", sum, inner(&dq, &q), sum_terms);
        adjoint("dv", sum, inner(&dv, &v), sum_terms);
    });
}
