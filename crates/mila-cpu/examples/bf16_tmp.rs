//! tmp
use std::{sync::{Arc,Mutex},time::Instant,collections::BTreeMap};
use mila_cpu::{Cpu,Observer,Isa,Level}; use mila_models::{Preset,Task}; use mila_ops::{Dims,NoTap,Numeric,Seeded};
#[derive(Debug,Default)] struct T{s:Mutex<(Option<(&'static str,Instant)>,BTreeMap<String,(usize,f64)>)>}
impl Observer for T{ fn begin(&self,o:&'static str){self.s.lock().unwrap().0=Some((o,Instant::now()));}
 fn end(&self,d:Dims){let mut s=self.s.lock().unwrap();let (o,t)=s.0.take().unwrap();let e=s.1.entry(format!("{o} {}x{}x{}",d.height,d.width,d.channels)).or_default();e.0+=1;e.1+=t.elapsed().as_secs_f64();}}
fn main()->Result<(),Box<dyn std::error::Error>>{
 let a:Vec<String>=std::env::args().skip(1).collect(); let size:usize=a[1].parse()?; let batch:usize=a[2].parse()?; let n:usize=a[3].parse()?;
 let isa=a.get(4).map_or(Isa::detect(),|l|Isa::new(Level::from_name(l).unwrap()).unwrap());
 let t=Arc::new(T::default()); let precision=match a.get(5).map(String::as_str){Some("amx")=>mila_cpu::Precision::Bf16(mila_cpu::Bf16Unit::available(isa)[1]),Some("avx")=>mila_cpu::Precision::Bf16(mila_cpu::Bf16Unit::available(isa)[0]),_=>mila_cpu::Precision::F32}; let mut cpu=Cpu::new(isa).with_precision(precision).observed(t.clone()); let p=Preset::find(&a[0])?;
 let m=p.build(&mut cpu,&Seeded::new(0),Task::Classify{classes:p.classes})?; let d=Dims::new(batch,size,size,3);
 let im=cpu.map(d,&vec![0.5;d.volume()])?; for _ in 0..2{m.forward(&cpu,im.clone(),&mut NoTap)?;} t.s.lock().unwrap().1.clear();
 let mut ts=vec![];
 mila_kernels::awake(||{for _ in 0..n{let s=Instant::now();m.forward(&cpu,im.clone(),&mut NoTap)?;ts.push(1e3*s.elapsed().as_secs_f64()/batch as f64);} Ok::<(),mila_ops::Error>(())})?;
 let ims:Vec<_>=(0..batch).map(|_|cpu.map(Dims::new(1,size,size,3),&vec![0.5;size*size*3]).unwrap()).collect();
 let cpu2=Cpu::new(isa); use rayon::prelude::*;
 let mut t2=vec![]; for g in [1usize,2,4]{ if g>batch{continue;} let ims:Vec<_>=(0..batch/g).map(|_|cpu2.map(Dims::new(g,size,size,3),&vec![0.5;g*size*size*3]).unwrap()).collect(); t2.clear();
 mila_kernels::awake(||{for _ in 0..n+2{let s=Instant::now();ims.par_iter().with_max_len(1).for_each(|im|{m.forward(&cpu2,im.clone(),&mut NoTap).unwrap();});t2.push(1e3*s.elapsed().as_secs_f64()/batch as f64);}});
 t2.sort_by(f64::total_cmp); println!("by image groups of {g}: median {:.2} min {:.2}",t2[n/2],t2[0]);} let _=&ims;
 ts.sort_by(f64::total_cmp);
 println!("median {:.2} min {:.2} ms/img",ts[n/2],ts[0]);
 let s=t.s.lock().unwrap(); let mut v:Vec<_>=s.1.iter().collect(); v.sort_by(|a,b|b.1.1.total_cmp(&a.1.1));
 for (k,(c,t)) in v{println!("{:7.3} ms/img {:4} {k}",1e3*t/n as f64/batch as f64,c/n);} Ok(())}
