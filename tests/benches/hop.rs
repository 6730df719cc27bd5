//! One hop to another process, and back: a request of the client library to a node, which runs an identity model, against a
//! bare framed ping-pong over loopback TCP.
//!
//! - *Floor*: a header of 24 bytes and the payload, written vectored and read exactly, into memory that is kept.
//! - *Link*: the mesh link alone, with an echo behind it.
//! - *Hop*: `infer` of the client library, which chooses a replica, sends the tensor there and decodes the answer; and there
//!   a node's mesh, its admission, a lane of a shard actor, and a run of a model that gives its input back.
//!
//! All three are served by one other process, and asked by one thread of this. Sides take turns; figures are medians over the
//! rounds, ratios the medians of the ratios of each round.
//!
//! `cargo bench -p grid-tests --bench hop -- [ROUNDS]`; 7 rounds.

use std::error::Error;
use std::io::{BufRead, BufReader, IoSlice, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use grid_client::link::{Incoming, Link, LinkOptions, NoService, Reply, accept_halves, connect_serving};
use grid_client::{ClientOptions, GridClient, Model};
use grid_core::model::Dim;
use grid_core::tensor::{AlignedBytes, Buffer, Tensor};
use grid_core::wire::handshake::Peer;
use grid_tests::bench::Arguments;
use grid_tests::embedded::{Repository, start_node};
use grid_tests::grid::KEY;
use grid_tests::identity::Identity;
use grid_tests::median;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const HEADER: usize = 24;
const SMALL: usize = 4 << 10;
const LARGE: usize = 4 << 20;
const SMALL_TRIPS: usize = 5000;
const LARGE_TRIPS: usize = 60;

/// The argument by which this program is the other process.
const OWNER: &str = "owner";
const GRID: &str = "bench";
const MODEL: &str = "identity";

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some(OWNER) {
        return own();
    }
    let rounds = Arguments::of_process().at(0, 7)?;
    let owner = Owner::start()?;
    let runtime = runtime()?;
    let mut floor = runtime.block_on(Floor::connect(owner.floor))?;
    let mesh = runtime.block_on(Mesh::connect(owner.link))?;
    let hop = runtime.block_on(Hop::connect(owner.node))?;
    let mut rows = Rows::default();
    runtime.block_on(async {
        for round in 0..=rounds {
            let (mut small, mut large) = ([Duration::ZERO; 3], [Duration::ZERO; 3]);
            for step in 0..3 {
                // Each round begins with another side.
                let side = (round + step) % 3;
                (small[side], large[side]) = match side {
                    0 => (
                        floor.trips(SMALL, SMALL_TRIPS).await?,
                        floor.trips(LARGE, LARGE_TRIPS).await?,
                    ),
                    1 => (
                        mesh.trips(SMALL, SMALL_TRIPS).await?,
                        mesh.trips(LARGE, LARGE_TRIPS).await?,
                    ),
                    _ => (
                        hop.trips(SMALL, SMALL_TRIPS).await?,
                        hop.trips(LARGE, LARGE_TRIPS).await?,
                    ),
                };
            }
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

/// The other process, until its standard input ends.
fn own() -> Result<()> {
    let repository = Repository::default().with(MODEL, "instances = 1", "");
    let data = TempDir::new()?;
    let config = format!(
        "[node]\nname = 'owner'\ndata_dir = '{}'\n[grid]\nname = '{GRID}'\nlisten = '127.0.0.1:0'\nkey = '{KEY}'\n",
        data.path().display()
    );
    let node = start_node(&repository, &config, Arc::new(Identity(Dim::Dynamic)));
    let mesh = node.mesh_address().ok_or("the node is in no grid")?;
    println!("{} {} {mesh}", serve(echo)?, serve(identity)?);
    // What was started ends with the process.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The other process, as this one sees it. Dropping it ends it.
struct Owner {
    process: Child,
    floor: SocketAddr,
    link: SocketAddr,
    node: SocketAddr,
}

impl Owner {
    fn start() -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(OWNER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = process.stdout.take().ok_or("its output is piped")?;
        BufReader::new(output).read_line(&mut line)?;
        let addresses: Vec<SocketAddr> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [floor, link, node] = addresses[..] else {
            return Err(format!("expected three addresses, found `{line}`").into());
        };
        Ok(Self {
            process,
            floor,
            link,
            node,
        })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // It has ended, or there is nothing to be done about it.
        let _ = self.process.wait();
    }
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
            times.push(begin.elapsed().as_secs_f64());
        }
        Ok(Duration::from_secs_f64(median(times)))
    }
}

struct Mesh(Link);

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
            times.push(begin.elapsed().as_secs_f64());
            if answer.body.len() != length {
                return Err("not what was sent".into());
            }
        }
        Ok(Duration::from_secs_f64(median(times)))
    }
}

struct Hop(Model);

impl Hop {
    async fn connect(node: SocketAddr) -> Result<Self> {
        let options = ClientOptions::new(GRID.parse()?, KEY.parse()?);
        let client = GridClient::connect([node.to_string()], options).await?;
        Ok(Self(client.model(MODEL).await?))
    }

    async fn trips(&self, length: usize, count: usize) -> Result<Duration> {
        let tensor = Tensor::from_values([1, length / 4].into(), &vec![1.0_f32; length / 4])?;
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begin = Instant::now();
            let answer = self.0.infer([("x", tensor.clone())]).await?;
            times.push(begin.elapsed().as_secs_f64());
            if answer.outputs.iter().any(|(_, output)| output.data().len() != length) {
                return Err("not what was sent".into());
            }
        }
        Ok(Duration::from_secs_f64(median(times)))
    }
}

/// For each round the figures of the three sides.
#[derive(Default)]
struct Rows {
    small: Vec<[f64; 3]>,
    large: Vec<[f64; 3]>,
}

impl Rows {
    fn add(&mut self, small: [Duration; 3], large: [Duration; 3]) {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        // There and back.
        let rate = |time: Duration| 2.0 * LARGE as f64 / time.as_secs_f64() / 1e9;
        self.small.push(small.map(micros));
        self.large.push(large.map(rate));
    }

    fn print(&self) {
        for (what, rows) in [
            ("4 KB, p50 there and back, µs", &self.small),
            ("4 MB, GB/s", &self.large),
        ] {
            let of = |side: usize| median(rows.iter().map(|row| row[side]));
            let ratio = |side: usize| median(rows.iter().map(|row| row[side] / row[0]));
            println!(
                "{what}: floor {:.2}; link {:.2}, ratio {:.2}; hop {:.2}, ratio {:.2}",
                of(0),
                of(1),
                ratio(1),
                of(2),
                ratio(2)
            );
        }
    }
}
