//! One hop over the mesh link against a bare framed ping-pong: two threads with a runtime each, over loopback TCP.
//!
//! The floor writes a header of 24 bytes and the payload vectored and reads both exactly, into memory that it keeps. Sides
//! take turns; figures are medians over the rounds, ratios the medians of the ratios of each round.
//!
//! `cargo bench -p grid-client --bench hop -- [ROUNDS]`

use std::error::Error;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use grid_client::link::{Incoming, LinkOptions, NoService, Reply, accept_halves, connect_serving};
use grid_core::tensor::{AlignedBytes, Buffer};
use grid_core::wire::handshake::Peer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const HEADER: usize = 24;
const SMALL: usize = 4 << 10;
const LARGE: usize = 4 << 20;
const SMALL_TRIPS: usize = 5000;
const LARGE_TRIPS: usize = 60;

fn main() -> Result<()> {
    let rounds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(7);
    let floor = serve(echo)?;
    let mesh = serve(identity)?;
    let runtime = runtime()?;
    let mut floor = runtime.block_on(Floor::connect(floor))?;
    let mesh = runtime.block_on(Mesh::connect(mesh))?;
    let mut rows = Rows::default();
    runtime.block_on(async {
        for round in 0..=rounds {
            let small = (
                floor.trips(SMALL, SMALL_TRIPS).await?,
                mesh.trips(SMALL, SMALL_TRIPS).await?,
            );
            let large = (
                floor.trips(LARGE, LARGE_TRIPS).await?,
                mesh.trips(LARGE, LARGE_TRIPS).await?,
            );
            if round > 0 {
                // The first round warms up.
                rows.add(small, large);
            }
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    })?;
    rows.print();
    Ok(())
}

fn options() -> Result<LinkOptions> {
    Ok(LinkOptions::new("bench".parse()?, Peer::Client, [1; 32]))
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Serves one connection on a thread of its own; where.
fn serve<F: Future<Output = Result<()>> + 'static>(service: fn(TcpStream) -> F) -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        runtime()?.block_on(async {
            let (stream, _) = TcpListener::from_std(listener)?.accept().await?;
            stream.set_nodelay(true)?;
            service(stream).await
        })
    });
    Ok(address)
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    let mut body = vec![0; LARGE];
    loop {
        let length = read(&mut stream, &mut body).await?;
        write(&mut stream, &body[..length]).await?;
    }
}

async fn read(stream: &mut TcpStream, body: &mut [u8]) -> Result<usize> {
    // One read for a small message, as anybody would who measures a floor; what is large is read to where it belongs.
    let mut first = [0; HEADER + SMALL];
    let mut count = 0;
    while count < HEADER {
        match stream.read(&mut first[count..]).await? {
            0 => return Err("ended".into()),
            more => count += more,
        }
    }
    let length = u32::from_le_bytes([first[0], first[1], first[2], first[3]]) as usize;
    let here = count - HEADER;
    body[..here].copy_from_slice(&first[HEADER..count]);
    stream.read_exact(&mut body[here..length]).await?;
    Ok(length)
}

async fn write(stream: &mut TcpStream, body: &[u8]) -> Result<()> {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    let written = stream
        .write_vectored(&[IoSlice::new(&header), IoSlice::new(body)])
        .await?;
    stream.write_all(&body[written.saturating_sub(HEADER)..]).await?;
    Ok(())
}

async fn identity(stream: TcpStream) -> Result<()> {
    let service = |incoming: Incoming, mut reply: Reply| {
        // The opener waits for it; if not, there is nothing to do.
        let _ = reply.send(incoming.head.to_vec(), vec![incoming.body], true);
    };
    let (_link, driver) = accept_halves(stream.into_split(), &options()?, service).await?;
    driver.await;
    Ok(())
}

struct Floor(TcpStream, Vec<u8>);

impl Floor {
    async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self(stream, vec![0; LARGE]))
    }

    /// Median time of a trip there and back.
    async fn trips(&mut self, length: usize, count: usize) -> Result<Duration> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begin = Instant::now();
            write(&mut self.0, &self.1[..length]).await?;
            read(&mut self.0, &mut self.1).await?;
            times.push(begin.elapsed());
        }
        Ok(median(times))
    }
}

struct Mesh(grid_client::link::Link);

impl Mesh {
    async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (link, driver) = connect_serving(stream.into_split(), &options()?, NoService).await?;
        tokio::spawn(driver);
        Ok(Self(link))
    }

    async fn trips(&self, length: usize, count: usize) -> Result<Duration> {
        let body: Buffer = AlignedBytes::zeroed(length).freeze();
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begin = Instant::now();
            let mut exchange = self.0.call(vec![0; 32], vec![body.clone()], None);
            let answer = exchange.next().await.ok_or("no answer")??;
            times.push(begin.elapsed());
            if answer.body.len() != length {
                return Err("not what was sent".into());
            }
        }
        Ok(median(times))
    }
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("no time is not a number"));
    values[values.len() / 2]
}

#[derive(Default)]
struct Rows {
    small: Vec<(f64, f64)>,
    large: Vec<(f64, f64)>,
}

impl Rows {
    fn add(&mut self, small: (Duration, Duration), large: (Duration, Duration)) {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        // There and back.
        let rate = |time: Duration| 2.0 * LARGE as f64 / time.as_secs_f64() / 1e9;
        self.small.push((micros(small.0), micros(small.1)));
        self.large.push((rate(large.0), rate(large.1)));
    }

    fn print(&self) {
        for (what, rows) in [
            ("4 KB, p50 there and back, µs", &self.small),
            ("4 MB, GB/s", &self.large),
        ] {
            let floor = median(rows.iter().map(|row| row.0).collect());
            let mesh = median(rows.iter().map(|row| row.1).collect());
            let ratio = median(rows.iter().map(|row| row.1 / row.0).collect());
            println!("{what}: floor {floor:.2}, link {mesh:.2}, ratio {ratio:.2}");
        }
    }
}
