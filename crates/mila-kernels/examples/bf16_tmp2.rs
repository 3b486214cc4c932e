use mila_kernels::*; use std::time::Instant;
fn main(){ let pool=rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap(); pool.install(||{
 let isa=Isa::detect(); let unit=isa.bf16().unwrap();
 for (rows,i,o) in [(784,256,1024),(784,1024,256),(784,128,512),(784,512,128),(3136,64,256),(3136,256,64),(196,512,2048),(196,2048,512),(784,256,512),(3136,64,64),(12544,288,32),(3136,288,256)]{
  let x=vec![0.5f32;rows*i]; let w=PackedMatrix::from_columns(&vec![0.25;i*o],o,i).into_bf16(unit); let mut y=vec![0f32;rows*o];
  let mut best=f64::MAX; for _ in 0..30{let t=Instant::now(); linear::forward(isa,&x,&w,Epilogue::default(),&mut y); best=best.min(t.elapsed().as_secs_f64());}
  println!("{rows}x{i}x{o}: {:.0} GF {:.3} ms, x {} KB y {} KB", 2e-9*(rows*i*o) as f64/best,1e3*best,rows*i*4/1024,rows*o*4/1024);
 }})}
