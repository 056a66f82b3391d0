//! Checksums of bodies on their way to the store.

use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::operation::upload_part::builders::UploadPartFluentBuilder;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedPart};
use crc_fast::CrcAlgorithm;
use digest::Digest as _;

use super::body::Segments;

/// A checksum that a store can compare a body with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-64/NVME.
    Crc64Nvme,
    /// CRC-32C.
    Crc32c,
    /// CRC-32.
    Crc32,
    /// MD5 in `Content-MD5`, which costs 2 s of CPU for a GB.
    Md5,
    /// None that the store compares.
    None,
}

impl Checksum {
    /// All that are worth trying, the best first.
    pub(super) const ALL: [Self; 4] = [Self::Crc64Nvme, Self::Crc32c, Self::Crc32, Self::Md5];

    /// As it is called in a log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc64Nvme => "crc64nvme",
            Self::Crc32c => "crc32c",
            Self::Crc32 => "crc32",
            Self::Md5 => "content-md5",
            Self::None => "none",
        }
    }

    /// What a multipart upload must be told at its beginning.
    pub(super) fn algorithm(self) -> Option<ChecksumAlgorithm> {
        match self {
            Self::Crc64Nvme => Some(ChecksumAlgorithm::Crc64Nvme),
            Self::Crc32c => Some(ChecksumAlgorithm::Crc32C),
            Self::Crc32 => Some(ChecksumAlgorithm::Crc32),
            Self::Md5 | Self::None => None,
        }
    }

    /// How the checksums of parts become the object's. The CRCs combine, so it is one of all bytes.
    pub(super) fn of_parts(self) -> Option<ChecksumType> {
        self.algorithm().map(|_| ChecksumType::FullObject)
    }

    /// The checksum as a header has it; `crc64` was computed before.
    fn value(self, body: &Segments, crc64: u64) -> Option<String> {
        let bits = |algorithm| u32::try_from(crc(algorithm, body)).unwrap_or_default();
        match self {
            Self::Crc64Nvme => Some(base64_of(crc64)),
            Self::Crc32c => Some(base64(&bits(CrcAlgorithm::Crc32Iscsi).to_be_bytes())),
            Self::Crc32 => Some(base64(&bits(CrcAlgorithm::Crc32IsoHdlc).to_be_bytes())),
            Self::Md5 => {
                let mut md5 = md5::Md5::new();
                body.iter().for_each(|bytes| md5.update(bytes));
                Some(base64(&md5.finalize()))
            }
            Self::None => None,
        }
    }
}

/// A body's checksum, as it is sent.
#[derive(Debug, Clone)]
pub(super) struct Sum {
    pub(super) crc64: u64,
    algorithm: Checksum,
    value: Option<String>,
}

impl Sum {
    /// Computes it off the reactor: a part is some milliseconds.
    pub(super) async fn of(algorithm: Checksum, body: &Segments) -> Self {
        let body = body.clone();
        let work = tokio::task::spawn_blocking(move || {
            let crc64 = crc(CrcAlgorithm::Crc64Nvme, &body);
            Self {
                crc64,
                algorithm,
                value: algorithm.value(&body, crc64),
            }
        });
        work.await.expect("a checksum does not panic")
    }

    /// The same one of other bytes: what a store that compares must refuse.
    pub(super) async fn wrong(algorithm: Checksum) -> Self {
        Self::of(
            algorithm,
            &Segments::new(vec![b"other bytes".as_slice().into()]),
        )
        .await
    }

    pub(super) fn put(self, put: PutObjectFluentBuilder) -> PutObjectFluentBuilder {
        match self.algorithm {
            Checksum::Crc64Nvme => put.set_checksum_crc64_nvme(self.value),
            Checksum::Crc32c => put.set_checksum_crc32_c(self.value),
            Checksum::Crc32 => put.set_checksum_crc32(self.value),
            Checksum::Md5 => put.set_content_md5(self.value),
            Checksum::None => put,
        }
    }

    pub(super) fn part(self, part: UploadPartFluentBuilder) -> UploadPartFluentBuilder {
        match self.algorithm {
            Checksum::Crc64Nvme => part.set_checksum_crc64_nvme(self.value),
            Checksum::Crc32c => part.set_checksum_crc32_c(self.value),
            Checksum::Crc32 => part.set_checksum_crc32(self.value),
            Checksum::Md5 => part.set_content_md5(self.value),
            Checksum::None => part,
        }
    }
}

/// A part in the list that completes an upload. Of the checksums only CRC-64 is in the rows; a store
/// that compares another has compared it already.
pub(super) fn completed(checksum: Checksum, number: i32, etag: &str, crc64: u64) -> CompletedPart {
    let part = CompletedPart::builder().part_number(number).e_tag(etag);
    match checksum {
        Checksum::Crc64Nvme => part.checksum_crc64_nvme(base64_of(crc64)),
        _ => part,
    }
    .build()
}

/// The checksum of bytes, and that of so many more behind them, as that of all of them.
pub(super) fn combined(before: u64, (behind, length): (u64, u64)) -> u64 {
    crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, before, behind, length)
}

/// A CRC-64 as headers have it.
pub(super) fn base64_of(crc64: u64) -> String {
    base64(&crc64.to_be_bytes())
}

/// CRC-64/NVME of some pieces of memory.
pub(super) fn crc64(body: &Segments) -> u64 {
    crc(CrcAlgorithm::Crc64Nvme, body)
}

fn crc(algorithm: CrcAlgorithm, body: &Segments) -> u64 {
    let mut digest = crc_fast::Digest::new(algorithm);
    body.iter().for_each(|bytes| digest.update(bytes));
    digest.finalize()
}

fn base64(bytes: &[u8]) -> String {
    aws_smithy_types::base64::encode(bytes)
}
