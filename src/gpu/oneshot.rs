//! What callbacks hand to futures.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use super::context::lock;
use crate::{Error, Result};

/// A value sent once, from a callback of the device or another thread to a future, which is an error if the sender goes
/// without having sent.
pub(super) fn oneshot<T: Send + 'static>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Mutex::new((Sent::NotYet, None)));
    (Sender(shared.clone()), Receiver(shared))
}

enum Sent<T> {
    NotYet,
    Value(T),
    Never,
}

type Shared<T> = Arc<Mutex<(Sent<T>, Option<std::task::Waker>)>>;

pub(super) struct Sender<T>(Shared<T>);
pub(super) struct Receiver<T>(Shared<T>);

impl<T> Sender<T> {
    pub(super) fn send(self, value: T) {
        lock(&self.0).0 = Sent::Value(value);
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        if matches!(shared.0, Sent::NotYet) {
            shared.0 = Sent::Never;
        }
        let waker = shared.1.take();
        drop(shared);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// Whether a future that awaits it would go on.
    pub(super) fn is_answered(&self) -> bool {
        !matches!(lock(&self.0).0, Sent::NotYet)
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Result<T>> {
        let mut shared = lock(&self.0);
        match std::mem::replace(&mut shared.0, Sent::Never) {
            Sent::Value(value) => Poll::Ready(Ok(value)),
            Sent::Never => Poll::Ready(Err(Error::Gpu("the device gave no answer; run again".to_owned()))),
            Sent::NotYet => {
                *shared = (Sent::NotYet, Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_sender_that_goes_is_an_error_and_no_wait() {
        let (sender, receiver) = oneshot();
        let sent = std::thread::spawn(|| sender.send(7));
        assert_eq!(pollster::block_on(receiver).unwrap(), 7);
        sent.join().unwrap();
        let (sender, receiver) = oneshot::<u32>();
        let dropped = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            drop(sender);
        });
        assert!(matches!(pollster::block_on(receiver), Err(Error::Gpu(_))));
        dropped.join().unwrap();
    }
}
