use grid_core::wire::frame::{ALL_KINDS, HEADER, Header, Kind, LAST};
use grid_core::wire::handshake::{HandshakeError, Versions};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.unwrap().block_on(future)
}

/// Frames with numbers near those that mean something.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let numbers = (
        0u64..6,
        prop_oneof![0u32..10, any::<u32>()],
        prop_oneof![0u32..300, any::<u32>()],
    );
    (0usize..ALL_KINDS.len(), any::<bool>(), numbers, 0usize..100).prop_map(|(kind, last, numbers, length)| {
        let kind = ALL_KINDS[kind];
        let length = if matches!(kind, Kind::Head | Kind::Data) {
            length
        } else {
            0
        };
        let header = Header {
            payload: length as u32,
            flags: u16::from(last) * LAST,
            exchange: numbers.0,
            argument: numbers.1,
            body: numbers.2,
            ..Header::new(kind, 0)
        };
        let mut bytes = header.encode().to_vec();
        bytes.resize(HEADER + length, 9);
        bytes
    })
}

/// Sends bytes to a link behind the handshake, then ends the connection; how the link ended.
async fn ended_by(bytes: Vec<u8>) -> Closed {
    let (link, driver, far) = bare(1 << 16, &options()).await;
    let _running = link.call(vec![], vec![body(100)], None);
    let (mut reader, mut writer) = tokio::io::split(far);
    let read = tokio::spawn(async move { reader.read_to_end(&mut Vec::new()).await });
    let driver = tokio::spawn(driver);
    // The link may close before it has taken all.
    let _ = writer.write_all(&bytes).await;
    let _ = writer.shutdown().await;
    let closed = driver.await.unwrap();
    drop(link);
    read.abort();
    closed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn garbage_before_the_handshake_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), accepts: bool) {
        run(async {
            let (near, mut far) = tokio::io::duplex(1000);
            far.write_all(&bytes).await.unwrap();
            far.shutdown().await.unwrap();
            let made = match accepts {
                true => accept(near, &options(), echo).await.map(|_| ()),
                false => connect(near, &options()).await.map(|_| ()),
            };
            assert!(made.is_err());
        });
    }

    #[test]
    fn garbage_behind_the_handshake_closes_the_link(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        run(ended_by(bytes));
    }

    #[test]
    fn frames_in_any_order_and_with_any_numbers_do_not_panic(frames in prop::collection::vec(any_frame(), 0..30)) {
        run(ended_by(frames.concat()));
    }
}

#[tokio::test]
async fn a_broken_rule_is_named_and_told() {
    let (link, driver, mut far) = bare(1000, &options()).await;
    tokio::spawn(driver);
    far.write_all(&Header::new(Kind::Data, 7).encode()).await.unwrap();
    let closed = link.closed().await;
    let broken = "a Data frame of exchange 7, which was never opened";
    assert_eq!(closed, Closed::Violation(broken.to_owned()));
    let mut told = Vec::new();
    far.read_to_end(&mut told).await.unwrap();
    let told = String::from_utf8_lossy(&told[HEADER..]).into_owned();
    assert_eq!(told, format!("protocol broken: {broken}"));
}

async fn refused(right: LinkOptions) -> (LinkError, LinkError) {
    let (near, far) = tokio::io::duplex(1000);
    let (left, mine) = (options(), echo);
    let (left, right) = tokio::join!(connect(near, &left), accept(far, &right, mine));
    (left.unwrap_err(), right.unwrap_err())
}

#[tokio::test]
async fn a_wrong_key_another_grid_and_other_versions_are_named() {
    let (left, _) = refused(LinkOptions {
        key: [2; 32],
        ..options()
    })
    .await;
    assert_eq!(left.to_string(), "no link: its key is not the key of this grid");
    let grid = "elsewhere".parse().unwrap();
    let (left, right) = refused(LinkOptions { grid, ..options() }).await;
    assert_eq!(
        left.to_string(),
        "no link: it belongs to grid `elsewhere`, expected `grid`"
    );
    assert_eq!(
        right.to_string(),
        "no link: it belongs to grid `grid`, expected `elsewhere`"
    );
    let versions = Versions { min: 4, max: 5 };
    let (left, _) = refused(LinkOptions { versions, ..options() }).await;
    assert_eq!(
        left.to_string(),
        "no link: it speaks protocol versions 4 to 5, this end 1"
    );
}

#[tokio::test]
async fn who_sends_everything_back_gets_no_link() {
    let (near, far) = tokio::io::duplex(1000);
    tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(far);
        tokio::io::copy(&mut reader, &mut writer).await
    });
    // Its own hello comes back, then its own refusal of whatever follows: never a proof that fits.
    let limits = Limits {
        handshake_timeout: std::time::Duration::from_millis(20),
        ..Limits::default()
    };
    let error = connect(near, &LinkOptions { limits, ..options() }).await.unwrap_err();
    assert!(
        matches!(
            error,
            LinkError::TimedOut(_) | LinkError::Handshake(HandshakeError::WrongKey)
        ),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_gets_no_link() {
    let (near, _far) = tokio::io::duplex(1000);
    let error = accept(near, &options(), echo).await.unwrap_err();
    assert!(matches!(error, LinkError::TimedOut(_)), "{error}");
}
