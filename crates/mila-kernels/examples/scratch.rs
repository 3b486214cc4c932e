//! Scratch.
use std::time::Instant;
const L: usize = 16;
type V16 = [f32; L];
#[inline(always)]
fn tile<const R: usize, const V: usize>(x: &[f32], k: usize, w: &[f32], pw: usize) -> [[V16; V]; R] {
    let rows: [&[f32]; R] = std::array::from_fn(|r| &x[r * k..(r + 1) * k]);
    let mut acc = [[[0f32; L]; V]; R];
    let w = &w.as_chunks::<L>().0[..k * V];
    for i in 0..k {
        let w: &[V16; V] = w[i * V..][..V].try_into().unwrap();
        for r in 0..R {
            let a = rows[r][i];
            for v in 0..V {
                for l in 0..L {
                    acc[r][v][l] = a.mul_add(w[v][l], acc[r][v][l]);
                }
            }
        }
    }
    acc
}
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma,avx2")]
fn product<const R: usize, const V: usize>(x: &[f32], k: usize, w: &[f32], n: usize, y: &mut [f32]) {
    let pw = V * L;
    for (p, w) in w.chunks_exact(pw * k).enumerate() {
        for (x, y) in x.chunks(R * k).zip(y.chunks_mut(R * n)) {
            if x.len() == R * k {
                let acc = tile::<R, V>(x, k, w, pw);
                for r in 0..R {
                    let y = &mut y[r * n + p * pw..][..pw];
                    for v in 0..V {
                        for l in 0..L {
                            y[v * L + l] = acc[r][v][l];
                        }
                    }
                }
            } else {
                for (x, y) in x.chunks(k).zip(y.chunks_mut(n)) {
                let acc = tile::<1, V>(x, k, w, pw);
                    let y = &mut y[p * pw..][..pw];
                    for v in 0..V {
                        for l in 0..L {
                            y[v * L + l] = acc[0][v][l];
                        }
                    }
                }
            }
        }
    }
}
use std::arch::x86_64::*;
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma,avx2")]
fn itile<const R: usize, const V: usize>(x: &[f32], k: usize, w: &[f32], y: &mut [f32], n: usize) {
    assert!(x.len() >= R * k && w.len() >= k * V * 16);
    let mut acc = [[_mm512_setzero_ps(); V]; R];
    unsafe {
        for i in 0..k {
            let w: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(w.as_ptr().add(i * V * 16 + v * 16)));
            for r in 0..R {
                let a = _mm512_set1_ps(*x.as_ptr().add(r * k + i));
                for v in 0..V {
                    acc[r][v] = _mm512_fmadd_ps(a, w[v], acc[r][v]);
                }
            }
        }
        for r in 0..R {
            let y = &mut y[r * n..][..V * 16];
            for v in 0..V {
                _mm512_storeu_ps(y.as_mut_ptr().add(v * 16), acc[r][v]);
            }
        }
    }
}
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma,avx2")]
fn iproduct<const R: usize, const V: usize>(x: &[f32], k: usize, w: &[f32], n: usize, y: &mut [f32]) {
    let pw = V * L;
    for (p, w) in w.chunks_exact(pw * k).enumerate() {
        for (x, y) in x.chunks(R * k).zip(y.chunks_mut(R * n)) {
            if x.len() == R * k {
                itile::<R, V>(x, k, w, &mut y[p * pw..], n);
            } else {
                for (x, y) in x.chunks(k).zip(y.chunks_mut(n)) {
                    itile::<1, V>(x, k, w, &mut y[p * pw..], n);
                }
            }
        }
    }
}
fn go(m: usize, k: usize, n: usize, rb: usize, f: &dyn Fn(&[f32], usize, &[f32], usize, &mut [f32])) -> f64 {
    let x: Vec<f32> = (0..m * k).map(|i| (i % 13) as f32 - 6.0).collect();
    let w: Vec<f32> = (0..n * k).map(|i| (i % 7) as f32 - 3.0).collect();
    let mut y = vec![0f32; m * n];
    let mut best = f64::MAX;
    let t0 = Instant::now();
    let mut it = 0;
    while it < 5 || (t0.elapsed().as_secs_f64() < 0.12) {
        it += 1;
        let t = Instant::now();
        for (x, y) in x.chunks(rb * k).zip(y.chunks_mut(rb * n)) {
            f(x, k, &w, n, y);
        }
        best = best.min(t.elapsed().as_secs_f64());
    }
    2.0 * (m * n * k) as f64 / best / 1e9
}
fn main() {
    for (m, c) in [(3136, 64), (784, 128), (196, 256), (49, 512)] {
        for (k, n) in [(c, c), (c, 2 * c), (c, 4 * c), (4 * c, c)] {
            print!("{m:5} {k:5} {n:5}: ");
            for rb in [56, 4096] {
                print!(" safe12x2 {rb}={:.0}", go(m, k, n, rb, &|x, k, w, n, y| unsafe { product::<12, 2>(x, k, w, n, y) }));
                print!(" safe14x2 {rb}={:.0}", go(m, k, n, rb, &|x, k, w, n, y| unsafe { product::<14, 2>(x, k, w, n, y) }));
                print!(" safe7x2 {rb}={:.0}", go(m, k, n, rb, &|x, k, w, n, y| unsafe { product::<7, 2>(x, k, w, n, y) }));
                print!(" safe7x4 {rb}={:.0}", go(m, k, n, rb, &|x, k, w, n, y| unsafe { product::<7, 4>(x, k, w, n, y) }));
                print!(" intr14x2 {rb}={:.0}", go(m, k, n, rb, &|x, k, w, n, y| unsafe { iproduct::<14, 2>(x, k, w, n, y) }));
            }
            println!();
        }
    }
}
