//! Sessions as a viewer sees them, and sessions with viewers that say anything.

use proptest::prelude::*;

use super::abilities::*;
use super::*;
use crate::rfb::Picture;
use crate::rfb::encode::tests::decoder::{Area, Decoder, Format};

const SIZE: (usize, usize) = (64, 48);

fn session() -> Session {
    let settings = Settings { name: "vm".into(), password: None, encrypt: false, challenge: [0; 16], size: SIZE };
    Session::new(settings)
}

fn open() -> Session {
    let mut session = session();
    session.input(b"RFB 003.008\n\x01\x01");
    assert!(session.is_open());
    while session.poll().is_some() {}
    session
}

fn outputs(session: &mut Session) -> Vec<Output> {
    std::iter::from_fn(|| session.poll()).collect()
}

fn sent(session: &mut Session) -> Vec<u8> {
    let bytes = outputs(session).into_iter().map(|output| match output {
        Output::Send(bytes) => bytes,
        other => panic!("{other:?}"),
    });
    bytes.flatten().collect()
}

/// Takes what is there out of the way.
fn sent_or_entered(session: &mut Session) {
    while session.poll().is_some() {}
}

fn request(incremental: bool) -> Vec<u8> {
    vec![3, u8::from(incremental), 0, 0, 0, 0, 0, 64, 0, 48]
}

fn encodings(numbers: &[i32]) -> Vec<u8> {
    let mut message = vec![2, 0, 0, numbers.len() as u8];
    message.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
    message
}

fn show(session: &mut Session, size: (usize, usize)) {
    let pixels = vec![0x12_3456; size.0 * size.1];
    session.update(Picture { width: size.0, height: size.1, pixels: &pixels });
}

#[test]
fn a_viewer_is_greeted_and_told_of_the_screen() {
    let mut session = session();
    session.input(b"RFB 003.008\n");
    session.input(&[1]);
    session.input(&[0]);
    let outputs = outputs(&mut session);
    assert_eq!(outputs[0], Output::Send(b"RFB 003.008\n".to_vec()));
    assert!(outputs.contains(&Output::Enter { shared: false }));
    let Some(Output::Send(init)) = outputs.last() else { panic!("{outputs:?}") };
    assert_eq!((&init[..4], &init[20..]), (&[0, 64, 0, 48][..], &[0, 0, 0, 2, b'v', b'm'][..]));
}

#[test]
fn updates_come_when_asked_for_and_when_something_changed() {
    let mut session = open();
    show(&mut session, SIZE);
    assert!(sent(&mut session).is_empty(), "nobody asked");
    session.input(&request(true));
    assert_eq!(session.wants(), Wants::Update);
    show(&mut session, SIZE);
    assert_eq!(sent(&mut session).len(), 4 + 12 + 64 * 48 * 4);
    assert_eq!(session.wants(), Wants::Nothing);
    session.damage(Rect { x: 20, y: 20, width: 1, height: 1 });
    session.damage(Rect { x: 17, y: 30, width: 30, height: 10 });
    assert_eq!(session.wants(), Wants::Nothing, "it hasn't asked again");
    session.input(&request(true));
    let mut pixels = vec![0x12_3456; SIZE.0 * SIZE.1];
    (pixels[20 * SIZE.0 + 20], pixels[30 * SIZE.0 + 17]) = (1, 2);
    session.update(Picture { width: SIZE.0, height: SIZE.1, pixels: &pixels });
    assert_eq!(sent(&mut session).len(), 4 + 12 + 16 * 16 * 4, "both changes in one, and just what differs");
    session.input(&request(true));
    session.damage(Rect { x: 0, y: 0, width: 64, height: 48 });
    session.update(Picture { width: SIZE.0, height: SIZE.1, pixels: &pixels });
    assert!(sent(&mut session).is_empty(), "it is all there already");
    session.input(&request(true));
    assert_eq!(session.wants(), Wants::Changes);
    session.input(&request(false));
    assert_eq!(session.wants(), Wants::Update);
}

#[test]
fn what_scrolls_is_copied_by_those_that_can() {
    let line = |number: usize| (0..64).map(move |x| (number * 7919 + x * 31 & 0xff_ffff) as u32);
    let page = |first: usize| (first..first + 200).flat_map(line).collect::<Vec<u32>>();
    let mut sizes = vec![];
    for numbers in [&[0][..], &[0, 1]] {
        let settings =
            Settings { name: "vm".into(), password: None, encrypt: false, challenge: [0; 16], size: (64, 200) };
        let mut session = Session::new(settings);
        session.input(b"RFB 003.008\n\x01\x01");
        session.input(&encodings(numbers));
        for first in [0, 8] {
            sent_or_entered(&mut session);
            session.input(&[3, 1, 0, 0, 0, 0, 0, 64, 0, 200]);
            session.damage(Rect { x: 0, y: 0, width: 64, height: 200 });
            session.update(Picture { width: 64, height: 200, pixels: &page(first) });
        }
        sizes.push(sent(&mut session));
    }
    assert_eq!(sizes[0].len(), 4 + 12 + 64 * 200 * 4);
    let (copied, rest) = sizes[1].split_at(4 + 16);
    assert_eq!(copied, [0, 0, 0, 2, 0, 0, 0, 0, 0, 64, 0, 192, 0, 0, 0, 1, 0, 0, 0, 8]);
    assert_eq!((&rest[..12], rest.len()), (&[0, 0, 0, 192, 0, 64, 0, 8, 0, 0, 0, 0][..], 12 + 64 * 8 * 4));
}

/// Reads an update as a viewer does.
fn read_update(viewer: &mut Decoder, update: &[u8]) {
    let mut rest = &update[4..];
    for _ in 0..u16::from_be_bytes([update[2], update[3]]) {
        let number = |at: usize| usize::from(u16::from_be_bytes([rest[at], rest[at + 1]]));
        let area = Area { x: number(0), y: number(2), width: number(4), height: number(6) };
        let encoding = i32::from_be_bytes([rest[8], rest[9], rest[10], rest[11]]);
        let from = (encoding == 1).then(|| (number(12), number(14)));
        rest = &rest[12..];
        match from {
            Some((x, y)) => {
                viewer.copy(area, x, y);
                rest = &rest[4..];
            }
            None => viewer.rect(encoding, area, &mut rest),
        }
    }
    assert!(rest.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_scrolls_and_changes_the_viewer_shows_the_picture(
        steps in prop::collection::vec((0..4_u8, 0..200_usize, 0..120_usize, 1..90_usize), 1..12),
        encoding in prop::sample::select(vec![0, 5, 6, 7, 16]),
    ) {
        let (width, height) = (200, 120);
        let settings = Settings { name: "vm".into(), password: None, encrypt: false, challenge: [0; 16], size: (width, height) };
        let mut session = Session::new(settings);
        session.input(b"RFB 003.008\n\x01\x01");
        session.input(&encodings(&[1, encoding]));
        sent_or_entered(&mut session);
        let mut viewer = Decoder::new(Format::TRUE, width, height);
        let mut pixels: Vec<u32> = (0..width * height).map(|at| (at * 2_654_435 >> 7) as u32 & 0xff_ffff).collect();
        for (number, (what, x, y, len)) in steps.into_iter().enumerate() {
            match what {
                // A window, or all, scrolls up or down.
                0 => pixels.rotate_left(len * width),
                1 => (0..height - y.min(height - 1)).for_each(|row| pixels.copy_within(((row + y) * width)..((row + y) * width + x), row * width)),
                2 => (0..height.saturating_sub(len)).rev().for_each(|row| pixels.copy_within(row * width..row * width + x, (row + len) * width)),
                _ => pixels[y * width + x..].iter_mut().take(len * 40).for_each(|pixel| *pixel = number as u32 * 0x30_4050 & 0xff_ffff),
            }
            session.damage(Rect::of_size((width as u16, height as u16)));
            session.input(&[3, 1, 0, 0, 0, 0, 0, width as u8, 0, height as u8]);
            session.update(Picture { width, height, pixels: &pixels });
            let update = sent(&mut session);
            if !update.is_empty() {
                read_update(&mut viewer, &update);
            }
            prop_assert!(viewer.pixels == pixels, "after step {number}");
        }
    }
}

#[test]
fn continuous_updates_need_no_requests() {
    let mut session = open();
    session.input(&encodings(&[0, CONTINUOUS, FENCE]));
    assert_eq!(sent(&mut session), [248, 0, 0, 0, 0x80, 0, 0, 1, 0, 150]);
    session.input(&[150, 1, 0, 0, 0, 0, 0, 64, 0, 48]);
    show(&mut session, SIZE);
    assert_eq!(sent(&mut session).len(), 4 + 12 + 64 * 48 * 4);
    assert_eq!(session.wants(), Wants::Changes);
    session.damage(Rect { x: 0, y: 0, width: 1, height: 1 });
    assert_eq!(session.wants(), Wants::Update);
    session.input(&[150, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((session.wants(), sent(&mut session)), (Wants::Nothing, vec![150]));
    session.input(&[248, 0, 0, 0, 0x80, 0, 0, 5, 1, 9]);
    assert_eq!(sent(&mut session), [248, 0, 0, 0, 0, 0, 0, 5, 1, 9]);
}

#[test]
fn a_new_size_is_told_to_those_that_understand_it() {
    let mut session = open();
    session.input(&encodings(&[0, DESKTOP_SIZE]));
    session.input(&request(false));
    show(&mut session, (80, 50));
    assert_eq!(sent(&mut session), [0, 0, 0, 1, 0, 0, 0, 0, 0, 80, 0, 50, 0xff, 0xff, 0xff, 0x21]);
    session.input(&[3, 1, 0, 0, 0, 0, 0, 80, 0, 50]);
    show(&mut session, (80, 50));
    assert_eq!(sent(&mut session).len(), 4 + 12 + 80 * 50 * 4);
    // Others go on with the size they know.
    let mut session = open();
    session.input(&request(false));
    show(&mut session, (80, 40));
    let update = sent(&mut session);
    assert_eq!(update.len(), 4 + 12 + 64 * 48 * 4);
    assert_eq!((&update[16..20], &update[16 + 64 * 40 * 4..][..4]), (&[0x56, 0x34, 0x12, 0][..], &[0; 4][..]));
}

#[test]
fn extensions_are_acknowledged_once() {
    let mut session = open();
    session.input(&encodings(&[EXTENDED_DESKTOP_SIZE, POINTER_TYPE, EXTENDED_KEY, LED_STATE]));
    session.lamps(4);
    session.input(&request(true));
    show(&mut session, SIZE);
    let update = sent(&mut session);
    assert_eq!(update[..4], [0, 0, 0, 4]);
    assert_eq!(update.len(), 4 + 4 * 12 + 20 + 1);
    assert_eq!(update.last(), Some(&4));
    session.input(&request(true));
    show(&mut session, SIZE);
    assert_eq!(sent(&mut session)[..4], [0, 0, 0, 1], "now the pixels");
    session.input(&[251, 0, 0, 99, 0, 99, 0, 0]);
    session.input(&request(true));
    show(&mut session, SIZE);
    assert_eq!(sent(&mut session)[4..12], [0, 1, 0, 1, 0, 64, 0, 48], "the size isn't the viewer's to change");
}

#[test]
fn keys_and_pointer_reach_the_guest_and_are_let_go_at_the_end() {
    let mut session = open();
    session.input(&[4, 1, 0, 0, 0, 0, 0, b'A']);
    session.input(&[255, 0, 0, 1, 0, 0, 0xff, 0x0d, 0, 0, 0, 0x9c]);
    session.input(&[5, 1, 0, 10, 0, 10, 5, 9, 0, 13, 0, 8, 5, 1, 0, 13, 0, 8]);
    let pointer = |dx, dy, wheel| Output::Pointer { dx, dy, wheel, buttons: 1 };
    assert_eq!(
        outputs(&mut session),
        [
            Output::Key { key: Key(30), down: true },
            Output::Key { key: Key(96), down: true },
            pointer(0, 0, 0),
            pointer(3, -2, -1),
        ]
    );
    session.release();
    let released = outputs(&mut session);
    assert_eq!(released.len(), 3, "{released:?}");
    assert!(released.contains(&Output::Key { key: Key(96), down: false }));
    assert!(released.contains(&Output::Pointer { dx: 0, dy: 0, wheel: 0, buttons: 0 }));
    session.input(&encodings(&[POINTER_TYPE]));
    session.input(&[5, 0, 0x80, 0x00, 0x7f, 0xfd]);
    assert_eq!(outputs(&mut session), [Output::Pointer { dx: 1, dy: -2, wheel: 0, buttons: 0 }]);
}

#[test]
fn names_lamps_and_pointers_are_told_as_the_viewer_knows_them() {
    let mut session = open();
    session.input(&encodings(&[DESKTOP_NAME, WIDE_LED_STATE, POINTER_TYPE]));
    session.lamps(2);
    session.pointer_is_absolute(true);
    session.input(&request(true));
    show(&mut session, SIZE);
    let update = sent(&mut session);
    let notices = [
        &[0, 0, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xfe, 0xff][..],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xfe, 0xcd, 0, 0, 0, 2, b'v', b'm'],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0x57, 0x4d, 0x56, 0x68, 0, 0, 0, 2],
    ]
    .concat();
    // The pixels follow.
    assert_eq!((&update[..2], update[3]), (&[0, 0][..], 4));
    assert_eq!(update[4..notices.len()], notices[4..]);
    session.input(&[5, 1, 0, 63, 0, 0, 5, 0, 0, 0, 0, 47, 5, 2, 0, 99, 0, 99]);
    let position = |x, y, buttons| Output::Position { x, y, wheel: 0, buttons };
    assert_eq!(
        outputs(&mut session),
        [position(32767, 0, 1), position(0, 32767, 0), position(32767, 32767, 2)],
        "beyond the edge is the edge"
    );
    session.release();
    assert_eq!(outputs(&mut session), [position(32767, 32767, 0)]);
    session.pointer_is_absolute(false);
    session.input(&request(true));
    assert_eq!(session.wants(), Wants::Update, "it is told of the mouse");
}

#[test]
fn cut_text_of_any_length_is_passed_over() {
    let mut session = open();
    session.input(&[6, 0, 0, 0, 0, 1, 0, 0]);
    for _ in 0..16 {
        session.input(&[4; 4096]);
        assert!(session.input.is_empty());
    }
    session.input(&[4, 1, 0, 0, 0, 0, 0, b'x']);
    assert_eq!(outputs(&mut session), [Output::Key { key: Key(45), down: true }]);
}

/// Messages that mostly make sense.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let random = |number: u8, len: usize| {
        prop::collection::vec(any::<u8>(), len).prop_map(move |bytes| [&[number], &bytes[..]].concat())
    };
    let known = prop::collection::vec(
        prop::sample::select(vec![0, 1, 5, 6, 7, 16, -223, -257, -258, -261, -307, -308, -312, -313, -247, -25, 99]),
        0..8,
    );
    let formats = prop::sample::select(vec![
        [8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [16, 16, 1, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0],
        [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0],
    ]);
    prop_oneof![
        known.prop_map(|numbers| encodings(&numbers)),
        formats.prop_map(|format| [&[0; 4][..], &format, &[0; 3]].concat()),
        any::<bool>().prop_map(request),
        random(3, 9),
        random(4, 7),
        random(5, 5),
        random(150, 9),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| [
            &[6, 0, 0, 0, 0, 0, 0, bytes.len() as u8][..],
            &bytes
        ]
        .concat()),
        prop::collection::vec(any::<u8>(), 9).prop_map(|bytes| [&[255, 0, 0][..], &bytes].concat()),
        random(248, 20),
        random(0, 19),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_taken_alike_in_any_pieces(
        entered in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        piece in 1..50_usize,
    ) {
        let (mut whole, mut pieces) = if entered { (open(), open()) } else { (session(), session()) };
        whole.input(&bytes);
        bytes.chunks(piece).for_each(|piece| pieces.input(piece));
        prop_assert_eq!(outputs(&mut whole), outputs(&mut pieces));
        prop_assert!(whole.input.len() <= bytes.len());
    }

    #[test]
    fn any_messages_leave_a_session_that_works(
        steps in prop::collection::vec((message(), 1..100_usize, 1..100_usize), 1..30),
    ) {
        let mut session = open();
        for (message, width, height) in steps {
            session.input(&message);
            session.damage(Rect { x: width as u16, y: height as u16, width: 9, height: 9 });
            session.pointer_is_absolute(width % 2 == 0);
            show(&mut session, (width, height));
            let closed = outputs(&mut session).iter().any(|output| matches!(output, Output::Close(_)));
            prop_assert_eq!(closed, !session.is_open());
            if closed {
                break;
            }
        }
    }
}
