//! Carries the bytes of a handshake.

use grid_core::wire::handshake::{Agreed, Handshake};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::LinkError;
use super::options::LinkOptions;

/// Carries it out; what was agreed, and the bytes that came behind it.
///
/// # Errors
/// When there will be no link. The other end was told why, as far as that goes.
pub(super) async fn shake<R, W>(
    reader: &mut R,
    writer: &mut W,
    handshake: Handshake,
    options: &LinkOptions,
) -> Result<(Agreed, Vec<u8>), LinkError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let limit = options.limits.handshake_timeout;
    let done = tokio::time::timeout(limit, carry(reader, writer, handshake)).await;
    done.unwrap_or(Err(LinkError::TimedOut(limit)))
}

async fn carry<R, W>(reader: &mut R, writer: &mut W, mut handshake: Handshake) -> Result<(Agreed, Vec<u8>), LinkError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut bytes = [0; 2048];
    loop {
        send(writer, &mut handshake).await?;
        let count = reader.read(&mut bytes).await?;
        if count == 0 {
            return Err(LinkError::Ended);
        }
        match handshake.receive(&bytes[..count]) {
            Ok(None) => {}
            Ok(Some(agreed)) => {
                send(writer, &mut handshake).await?;
                return Ok(agreed);
            }
            Err(error) => {
                // That the handshake failed is the error, not that the other end could not be told.
                let _ = send(writer, &mut handshake).await;
                let _ = writer.shutdown().await;
                return Err(error.into());
            }
        }
    }
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut W, handshake: &mut Handshake) -> std::io::Result<()> {
    let output = handshake.take_output();
    if !output.is_empty() {
        writer.write_all(&output).await?;
        writer.flush().await?;
    }
    Ok(())
}
