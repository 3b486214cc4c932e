//! Scan orders, resolved.

use mila_ops::recurrence::{Path, Steps};
use mila_ops::{CROSS_SCAN, ScanOrder};

const P: u32 = Steps::PAD;

fn index(order: ScanOrder, height: usize, width: usize) -> Vec<u32> {
    order.steps(height, width).unwrap().index().to_vec()
}

fn path(path: Path) -> ScanOrder {
    ScanOrder::along(path)
}

#[test]
fn sequences_are_those_of_the_papers() {
    let windows = path(Path::Windows { side: 2 });
    let (rows, columns) = (path(Path::RowSnake), path(Path::ColumnSnake));
    let atrous = |phase| path(Path::Atrous { phase });
    let goldens: &[(ScanOrder, [usize; 2], &[u32])] = &[
        (ScanOrder::ROWS, [4, 4], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        (ScanOrder::ROWS.reversed(), [4, 4], &[15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        (ScanOrder::COLUMNS, [3, 4], &[0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]),
        (ScanOrder::COLUMNS.reversed(), [3, 4], &[11, 7, 3, 10, 6, 2, 9, 5, 1, 8, 4, 0]),
        (windows, [4, 4], &[0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]),
        (windows, [3, 3], &[0, 1, 3, 4, 2, P, 5, P, 6, 7, P, P, 8, P, P, P]),
        (windows.reversed(), [3, 3], &[P, P, P, 8, P, P, 7, 6, P, 5, P, 2, 4, 3, 1, 0]),
        (windows, [3, 5], &[0, 1, 5, 6, 2, 3, 7, 8, 4, P, 9, P, 10, 11, P, P, 12, 13, P, P, 14, P, P, P]),
        (rows, [4, 4], &[0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11, 15, 14, 13, 12]),
        (rows.reversed(), [4, 4], &[12, 13, 14, 15, 11, 10, 9, 8, 4, 5, 6, 7, 3, 2, 1, 0]),
        (columns, [4, 4], &[0, 4, 8, 12, 13, 9, 5, 1, 2, 6, 10, 14, 15, 11, 7, 3]),
        (columns.reversed(), [4, 4], &[3, 7, 11, 15, 14, 10, 6, 2, 1, 5, 9, 13, 12, 8, 4, 0]),
        (rows, [3, 4], &[0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11]),
        (rows.reversed(), [3, 4], &[11, 10, 9, 8, 4, 5, 6, 7, 3, 2, 1, 0]),
        (columns, [3, 4], &[0, 4, 8, 9, 5, 1, 2, 6, 10, 11, 7, 3]),
        (columns.reversed(), [3, 4], &[3, 7, 11, 10, 6, 2, 1, 5, 9, 8, 4, 0]),
        (atrous(0), [4, 4], &[0, 2, 8, 10]),
        (atrous(1), [4, 4], &[4, 12, 6, 14]),
        (atrous(2), [4, 4], &[1, 3, 9, 11]),
        (atrous(3), [4, 4], &[5, 13, 7, 15]),
        (atrous(0), [2, 6], &[0, 2, 4]),
        (atrous(1), [2, 6], &[6, 8, 10]),
        (atrous(2), [2, 6], &[1, 3, 5]),
        (atrous(3), [2, 6], &[7, 9, 11]),
        (path(Path::SeparateTokens), [2, 2], &[0, 1, 2, 3]),
    ];
    for (order, [height, width], wanted) in goldens {
        assert_eq!(&index(*order, *height, *width), wanted, "{order:?} of {height}x{width}");
    }
}

#[test]
fn segments_start_where_windows_and_tokens_do() {
    let starts = |order: ScanOrder, height, width| order.steps(height, width).unwrap().starts().to_vec();
    let separate = path(Path::SeparateWindows { side: 2 });
    assert_eq!(index(separate, 4, 4), index(path(Path::Windows { side: 2 }), 4, 4));
    assert_eq!(starts(separate, 4, 4), [0, 4, 8, 12]);
    assert_eq!(starts(separate.reversed(), 4, 4), [0, 4, 8, 12]);
    assert_eq!(starts(path(Path::SeparateTokens), 2, 2), [0, 1, 2, 3]);
    assert_eq!(starts(ScanOrder::COLUMNS, 4, 4), [0]);
    let ragged = Steps::new(vec![Some(0), Some(1), Some(2)], vec![0, 2], 3).unwrap().reversed();
    assert_eq!((ragged.index(), ragged.starts()), ([2, 1, 0].as_slice(), [0, 1].as_slice()));
    assert_eq!(ragged.segments().collect::<Vec<_>>(), [0..1, 1..3]);
}

#[test]
fn every_order_visits_every_token_once() {
    let sides = [(1, 1), (1, 7), (7, 1), (2, 3), (5, 4), (7, 9)];
    let paths = [
        Path::Rows,
        Path::Columns,
        Path::RowSnake,
        Path::ColumnSnake,
        Path::Windows { side: 2 },
        Path::Windows { side: 7 },
        Path::SeparateWindows { side: 3 },
        Path::SeparateTokens,
    ];
    for (height, width) in sides {
        for way in paths {
            let steps = path(way).steps(height, width).unwrap();
            assert_eq!(path(way).count(height, width).unwrap(), steps.len(), "{way:?} of {height}x{width}");
            for (token, step) in steps.inverse().into_iter().enumerate() {
                let step = step.expect("a step for every token");
                assert_eq!(steps.index()[step as usize] as usize, token, "{way:?} of {height}x{width}");
            }
            assert_eq!(steps.clone().reversed().reversed(), steps, "{way:?} twice reversed");
        }
        let mut visited: Vec<u32> =
            (0..4).flat_map(|phase| index(path(Path::Atrous { phase }), height, width)).collect();
        let counts = (0..4).map(|phase| path(Path::Atrous { phase }).count(height, width).unwrap());
        assert_eq!(counts.sum::<usize>(), visited.len(), "phases of {height}x{width}");
        visited.sort_unstable();
        assert_eq!(visited, (0..(height * width) as u32).collect::<Vec<_>>(), "phases of {height}x{width}");
        // Columns of a map are the rows of its transpose.
        let transposed = |token: u32| (token % height as u32) * width as u32 + token / height as u32;
        let rows: Vec<u32> = index(ScanOrder::ROWS, width, height).into_iter().map(transposed).collect();
        assert_eq!(index(ScanOrder::COLUMNS, height, width), rows);
    }
}

#[test]
fn the_cross_scan_goes_by_rows_first() {
    let found = CROSS_SCAN.map(|order| index(order, 2, 2));
    assert_eq!(found, [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0], [3, 1, 2, 0]]);
}

#[test]
fn orders_that_cannot_be_are_refused() {
    let refused = |order: ScanOrder, height, width| order.steps(height, width).unwrap_err().to_string();
    assert_eq!(
        refused(path(Path::Windows { side: 0 }), 4, 4),
        "scan order: expected windows of at least one token, found 0"
    );
    assert_eq!(refused(path(Path::Atrous { phase: 4 }), 4, 4), "scan order: expected a phase from 0 to 3, found 4");
    assert_eq!(refused(ScanOrder::ROWS, 0, 4), "scan order: expected at least one row and one column, found 0x4");
    refused(path(Path::Windows { side: 1 << 20 }), 4, 4);
    refused(path(Path::Windows { side: usize::MAX }), 4, 4);
    refused(ScanOrder::ROWS, usize::MAX, 2);
    let steps = |visits: &[Option<usize>], starts: &[usize]| Steps::new(visits.to_vec(), starts.to_vec(), 3);
    let refused = |visits: &[Option<usize>], starts: &[usize]| steps(visits, starts).unwrap_err().to_string();
    assert_eq!(
        refused(&[Some(0), Some(0)], &[0]),
        "scan order: expected every token once at most, found token 0 twice"
    );
    assert_eq!(refused(&[Some(3)], &[0]), "scan order: expected tokens below 3, found 3");
    for starts in [&[][..], &[1], &[0, 0], &[0, 2]] {
        refused(&[Some(0), None], starts);
    }
}

#[test]
fn the_inverse_leaves_out_what_no_step_visits() {
    let steps = Steps::new(vec![Some(1), None, Some(0)], vec![0], 3).unwrap();
    assert_eq!(steps.inverse(), [Some(2), Some(0), None]);
    assert_eq!(path(Path::Atrous { phase: 1 }).steps(2, 2).unwrap().inverse(), [None, None, Some(0), None]);
}
