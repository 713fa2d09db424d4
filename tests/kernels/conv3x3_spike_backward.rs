use crate::product_backward::check_gradients;

#[test]
fn agrees_with_its_twin_and_is_the_adjoint() {
    check_gradients(9, 40, 600);
}
