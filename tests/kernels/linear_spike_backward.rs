use crate::product_backward::check_gradients;

#[test]
fn agrees_with_its_twin_and_is_the_adjoint() {
    check_gradients(1, 40, 1500);
}
