//! stub
#![allow(missing_docs, missing_debug_implementations, clippy::all)]
use bytes::Bytes;
use crate::refusal::Refusal;
use crate::server::InboundBody;
#[derive(Clone,Copy,PartialEq,Eq)]
pub enum Decoding { AsSent, Declared, Guessed }
pub struct FormLimits { pub parts: usize, pub part_head_bytes: usize, pub guess_base64: bool }
pub enum FormEvent { Field{name:String,value:String}, FileStart, FileData(Bytes), FileEnd{decoding:Decoding}, End }
pub struct FormReader<'a>(&'a mut InboundBody);
impl<'a> FormReader<'a> {
 pub fn new(_b:&str, body:&'a mut InboundBody, _l:FormLimits)->Self{Self(body)}
 pub async fn next(&mut self)->Result<FormEvent,Refusal>{ todo!() }
}
