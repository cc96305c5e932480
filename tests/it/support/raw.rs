//! Calls by the method's path with bytes as messages: what only a broken or hostile client sends.

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use futures::Stream;
use keepbest_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Request;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::Codec;
use tonic::codec::DecodeBuf;
use tonic::codec::Decoder;
use tonic::codec::EncodeBuf;
use tonic::codec::Encoder;
use tonic::transport::Channel;

/// Messages as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Sends one message of any bytes and answers the first message, or the error. To the server a call with one message on a
/// stream is the same as one without a stream.
pub(crate) async fn call(channel: &Channel, path: &str, message: Bytes) -> Result<Option<Bytes>, Status> {
    stream(channel, path, vec![message]).await
}

/// The same with several messages.
pub(crate) async fn stream(
    channel: &Channel,
    path: &str,
    messages: Vec<Bytes>,
) -> Result<Option<Bytes>, Status> {
    stream_of(channel, path, futures::stream::iter(messages)).await
}

/// The same with messages that come when they come.
pub(crate) async fn stream_of(
    channel: &Channel,
    path: &str,
    messages: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<Option<Bytes>, Status> {
    send(channel, path, Request::new(messages)).await
}

/// As [`call`], with an API token, if there is one.
pub(crate) async fn call_as(
    channel: &Channel,
    token: Option<&str>,
    path: &str,
    message: Bytes,
) -> Result<Option<Bytes>, Status> {
    let mut request = Request::new(futures::stream::iter([message]));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    send(channel, path, request).await
}

async fn send(
    channel: &Channel,
    path: &str,
    request: Request<impl Stream<Item = Bytes> + Send + 'static>,
) -> Result<Option<Bytes>, Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = path.parse().unwrap();
    client.streaming(request, path, Raw).await?.into_inner().message().await
}

/// `/package.Service/Method` of every method of this API.
pub(crate) fn methods() -> Vec<String> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut methods = Vec::new();
    for file in set.file {
        for service in &file.service {
            for method in &service.method {
                methods.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    methods
}
