// Carry streams of bytes between a server in the guest and the other end of one virtio-serial port. What goes over the
// port is specified in docs/channel.md.
//
// zosia-streams PORT SERVER: for each stream that the other end opens, connect to SERVER, the path of a UNIX socket or
// the number of a TCP port of this machine; or hand the server a connection over @ and a file descriptor, a socket to it. "-"
// is standard input as the port, both ways. It ends only when the other end breaks the protocol, with a line that says how.
//
// With ZOSIA_PULSE, a file descriptor, a sign of life is the server's: PING is answered only if the eight bytes there have
// changed since the last one, or there are none, because it does not serve yet.
//
// zosia-streams PORT NUMBER SECONDS: take the server's place at this TCP port of this machine, and open a stream for each
// connection. It also ends when the other end has gone, or has given no sign of life for so many seconds.
//
// All memory is static, and what the other side sends decides about none of it.

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HELLO = 1, OPEN, DATA, SHUT, CLOSE, CREDIT, PING };
enum {
    STREAMS = 64, // at a time
    HEADER = 8,
    PAYLOAD = 32768, // bytes, at most
    WINDOW = 262144, // bytes that each direction of a stream begins with
    PORTION = WINDOW / 4, // the least that is granted
    GREETING = 20, // "zos1" and a nonce
    FULL = HEADER + PAYLOAD,
    ANSWER = HEADER + GREETING, // the longest answer to a frame
    ABSENT = 100, // milliseconds between looks for a host that has gone
    BUSY = 20, // milliseconds between attempts at a server whose queue is full
    QUEUE = 16, // connections that wait to be taken
    CONNECTED = 5000, // milliseconds until a port has its other end for sure
};
#define MOST_CREDIT 0x7fffffffu

struct stream {
    uint32_t id; // 0 if this place is free
    int fd; // -1 until it is connected, and once it is lost
    uint32_t credit; // bytes that the other end has room for
    uint32_t room; // bytes that it may send
    uint32_t consumed; // bytes that were taken here, and that it was not told of yet
    bool got_shut, sent_shut; // from and to the other end
    bool told; // this side knows of the other's SHUT
    bool joining; // the connection is still being made
    bool deaf; // this side takes no more: what comes is dropped
    bool lost; // the other end gets CLOSE as soon as there is room for it
    size_t from, count; // of the ring buffer
    unsigned char waiting[WINDOW];
};

static struct stream streams[STREAMS];
static struct pollfd events[STREAMS + 2]; // the last two are the port's and the listener's
static union {
    struct sockaddr any;
    struct sockaddr_un path;
    struct sockaddr_in number;
} server;
static socklen_t server_size;
static int port;
static int handing = -1; // a socket to a server that gets its connections over it
static int pulse = -1; // of the server
static unsigned char last_pulse[8];
static int listener = -1; // where there is one, this end opens the streams
static int64_t silence; // milliseconds without a sign of life that are the end, if this end opens the streams
static int64_t heard, pinged; // when there was one, and when one was last asked for
static unsigned char greeting[GREETING]; // sent by the end that opens the streams
static bool absent; // the port has no other end now
static bool greeted;
static bool held; // something waits for room in the output, and for nothing else
static uint32_t newest;
static unsigned char in[2 * FULL], out[4 * FULL];
static size_t in_count, out_from, out_count;

static void die(const char * why) {
    fprintf(stderr, "zosia-streams: %s\n", why);
    exit(1);
}

static void breach(const char * why) {
    const char * who = listener < 0 ? "host" : "worker";
    fprintf(stderr, "zosia-streams: the %s broke the channel's protocol: %s\n", who, why);
    exit(1);
}

// Return whether an error is temporary.
static bool passing(void) {
    return errno == EAGAIN || errno == EINTR;
}

static int64_t milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

static uint32_t number(const unsigned char * at) {
    return (uint32_t) at[0] << 24 | (uint32_t) at[1] << 16 | (uint32_t) at[2] << 8 | at[3];
}

static void put_number(unsigned char * at, uint32_t value) {
    for (int i = 0; i < 4; i++) {
        at[i] = value >> (24 - 8 * i);
    }
}

// Return whether a frame with such a payload fits into the output.
static bool fits(size_t length) {
    return out_count + HEADER + length <= sizeof out;
}

// Return the place of the next frame's payload. Nothing is sent of it before `send_frame`.
static unsigned char * next_payload(size_t length) {
    if (out_from + out_count + HEADER + length > sizeof out) {
        memmove(out, out + out_from, out_count);
        out_from = 0;
    }
    return out + out_from + out_count + HEADER;
}

static void send_frame(int kind, uint32_t id, size_t length) {
    unsigned char * header = next_payload(length) - HEADER;
    header[0] = kind;
    header[1] = 0;
    header[2] = length >> 8;
    header[3] = length;
    put_number(header + 4, id);
    out_count += HEADER + length;
}

static void release(struct stream * one) {
    if (one->fd >= 0) {
        close(one->fd);
    }
    one->fd = -1;
    one->id = 0;
}

static void lose(struct stream * one) {
    if (one->fd >= 0) {
        close(one->fd);
    }
    one->fd = -1;
    one->count = 0;
    one->lost = true;
}

static struct stream * find(uint32_t id) {
    for (int i = 0; i < STREAMS; i++) {
        if (streams[i].id == id) {
            return &streams[i];
        }
    }
    return NULL;
}

// Send what is written to a TCP socket at once, however little it is.
static void hurry(int fd) {
    if (server.any.sa_family == AF_INET) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int) {1}, sizeof(int));
    }
}

// Hand the server one end of a new connection. If it has yet to take earlier ones, the next round tries again.
static void hand(struct stream * one) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        lose(one);
        return;
    }
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } given = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    memcpy(CMSG_DATA(&given.header), &ends[1], sizeof(int));
    struct iovec byte = {.iov_base = "", .iov_len = 1};
    struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = &given, .msg_controllen = sizeof given};
    ssize_t sent = sendmsg(handing, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    bool again = sent < 0 && passing();
    close(ends[1]);
    if (sent == 1 && fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0) { // the server's end blocks
        one->fd = ends[0];
        return;
    }
    close(ends[0]);
    if (!again) {
        lose(one);
    }
}

// Connect to the server. If its queue of connections is full, the next round tries again.
static void join(struct stream * one) {
    if (handing >= 0) {
        hand(one);
        return;
    }
    one->fd = socket(server.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (one->fd < 0) {
        lose(one);
        return;
    }
    hurry(one->fd);
    if (connect(one->fd, &server.any, server_size) == 0) {
        return;
    }
    one->joining = errno == EINPROGRESS;
    if (passing()) {
        close(one->fd);
        one->fd = -1;
    } else if (!one->joining) {
        lose(one);
    }
}

// Learn whether a connection was made.
static void joined(struct stream * one) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(one->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    one->joining = false;
    if (error != 0) {
        lose(one);
    }
}

// Give the server what waits for it, as much as it takes, and then the host's SHUT.
static void push(struct stream * one) {
    if (one->joining) {
        return;
    }
    while (one->fd >= 0 && one->count > 0) {
        size_t end = WINDOW - one->from;
        ssize_t taken = one->count;
        if (!one->deaf) {
            taken = write(one->fd, one->waiting + one->from, one->count < end ? one->count : end);
        }
        if (taken < 0 && passing()) {
            return;
        }
        if (taken < 0) { // its answer may still come: a server need not read all of a request
            one->deaf = true;
            continue;
        }
        one->count -= taken;
        one->consumed += taken;
        one->from = one->count > 0 ? (one->from + taken) % WINDOW : 0; // few bytes use little memory
    }
    if (one->fd >= 0 && one->got_shut && !one->told) {
        shutdown(one->fd, SHUT_WR);
        one->told = true;
    }
}

// Send the host what the server says.
static void pull(struct stream * one) {
    size_t most = one->credit < PAYLOAD ? one->credit : PAYLOAD;
    ssize_t got = read(one->fd, next_payload(most), most);
    if (got > 0) {
        one->credit -= got;
        send_frame(DATA, one->id, got);
    } else if (got == 0) {
        one->sent_shut = true;
        send_frame(SHUT, one->id, 0);
    } else if (!passing()) { // a server that ends with bytes unread has reset it
        lose(one);
    }
}

// Return whether there is something to read from the server, and room for it.
static bool wants(const struct stream * one) {
    return !one->joining && !one->sent_shut && one->credit > 0 && fits(PAYLOAD);
}

// Return a place for a new stream, NULL if there is none.
static struct stream * new_stream(uint32_t id) {
    struct stream * one = find(0);
    // A stream that was SHUT both ways is over for the other end. It can't keep its place for a server that doesn't read on.
    for (int i = 0; one == NULL && i < STREAMS; i++) {
        if (streams[i].got_shut && streams[i].sent_shut) {
            one = &streams[i];
            release(one);
        }
    }
    if (one == NULL) {
        return NULL;
    }
    one->id = id;
    one->fd = -1;
    one->credit = one->room = WINDOW;
    one->consumed = 0;
    one->got_shut = one->sent_shut = one->told = one->deaf = one->lost = one->joining = false;
    one->from = one->count = 0;
    return one;
}

static void open_stream(uint32_t id) {
    if (listener >= 0) {
        breach("OPEN from the wrong end");
    }
    if (id <= newest) {
        breach("OPEN of an old stream");
    }
    newest = id;
    struct stream * one = new_stream(id);
    if (one == NULL) {
        send_frame(CLOSE, id, 0);
    } else {
        join(one);
    }
}

// Open a stream for a new connection.
static void admit(void) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    struct stream * one = fd < 0 ? NULL : new_stream(++newest);
    if (one == NULL) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    hurry(fd);
    one->fd = fd;
    send_frame(OPEN, one->id, 0);
}

static void take_data(struct stream * one, const unsigned char * payload, size_t length) {
    if (one->got_shut) {
        breach("DATA after SHUT");
    }
    if (length > one->room) {
        breach("more DATA than the window");
    }
    one->room -= length;
    if (one->lost) {
        return;
    }
    size_t at = (one->from + one->count) % WINDOW;
    size_t first = length < WINDOW - at ? length : WINDOW - at;
    memcpy(one->waiting + at, payload, first);
    memcpy(one->waiting, payload + first, length - first);
    one->count += length;
    push(one);
}

static void greet(uint32_t id, const unsigned char * payload) {
    if (listener >= 0) {
        if (greeted) {
            breach("HELLO after its reply");
        }
        greeted = memcmp(payload, greeting, GREETING) == 0;
        heard = greeted ? milliseconds() : heard;
        return;
    }
    if (id != 0 || memcmp(payload, "zos1", 4) != 0) {
        breach("HELLO of another protocol");
    }
    for (int i = 0; i < STREAMS; i++) {
        release(&streams[i]);
    }
    newest = 0;
    greeted = true;
    memcpy(next_payload(GREETING), payload, GREETING);
    send_frame(HELLO, 0, GREETING);
}

static void check(const unsigned char * header, size_t length) {
    static const size_t most[] = {0, GREETING, 0, PAYLOAD, 0, 0, 4, 0};
    int kind = header[0];
    if (kind < HELLO || kind > PING || header[1] != 0) {
        breach("unknown kind of frame");
    }
    if (kind == DATA ? length < 1 || length > PAYLOAD : length != most[kind]) {
        breach("wrong length of a frame");
    }
    if (kind != HELLO && !greeted && listener < 0) {
        breach("no HELLO");
    }
}

// Return whether the server has shown a pulse since the last time, as far as it has one.
static bool gets_on(void) {
    unsigned char now[sizeof last_pulse];
    if (pulse < 0 || pread(pulse, now, sizeof now, 0) != sizeof now) {
        return true;
    }
    bool changed = memcmp(now, last_pulse, sizeof now) != 0;
    memcpy(last_pulse, now, sizeof now);
    return changed;
}

static void handle(int kind, uint32_t id, const unsigned char * payload, size_t length) {
    if (kind == HELLO) {
        greet(id, payload);
        return;
    }
    if (!greeted) {
        return; // from before the greeting
    }
    if (kind == OPEN) {
        open_stream(id);
        return;
    }
    if (kind == PING) {
        if (listener < 0 && gets_on()) {
            send_frame(PING, 0, 0);
        }
        return;
    }
    uint32_t amount = kind == CREDIT ? number(payload) : 1;
    if (amount < 1 || amount > MOST_CREDIT + 1) {
        breach("wrong amount of CREDIT");
    }
    struct stream * one = id == 0 ? NULL : find(id);
    if (one == NULL) {
        return; // closed meanwhile
    }
    if (kind == DATA) {
        take_data(one, payload, length);
    } else if (kind == CLOSE) {
        release(one);
    } else if (kind == CREDIT) {
        if (amount > MOST_CREDIT - one->credit) {
            breach("too much CREDIT");
        }
        one->credit += amount;
    } else {
        if (one->got_shut) {
            breach("SHUT after SHUT");
        }
        one->got_shut = true;
        push(one);
    }
}

// Handle the frames that have come, as long as their answers fit into the output. The end that opens the streams answers
// none: two ends that both waited for room could wait for each other.
static void handle_input(void) {
    size_t from = 0;
    while (in_count - from >= HEADER) {
        if (listener < 0 && !fits(ANSWER)) {
            held = true;
            break;
        }
        const unsigned char * header = in + from;
        size_t length = (size_t) header[2] << 8 | header[3];
        check(header, length);
        if (in_count - from < HEADER + length) {
            break;
        }
        handle(header[0], number(header + 4), header + HEADER, length);
        from += HEADER + length;
    }
    memmove(in, in + from, in_count - from);
    in_count -= from;
}

// Do what a stream is ready for. One that has just taken the place of another may not be: it then does nothing, because its
// socket blocks nothing.
static void attend(struct stream * one, short ready) {
    if (one->fd < 0 && !one->lost) {
        join(one);
    } else if (one->joining && ready != 0) {
        joined(one);
    }
    push(one);
    if (one->fd >= 0 && ready != 0 && wants(one)) {
        pull(one);
    }
    bool owes = one->consumed >= PORTION && !one->got_shut;
    if (one->sent_shut && one->told) {
        release(one);
    } else if ((one->lost || owes) && !fits(ANSWER)) {
        held = true;
    } else if (one->lost) {
        send_frame(CLOSE, one->id, 0);
        release(one);
    } else if (owes) {
        put_number(next_payload(4), one->consumed);
        send_frame(CREDIT, one->id, 4);
        one->room += one->consumed;
        one->consumed = 0;
    }
}

static void read_port(void) {
    ssize_t got = read(port, in + in_count, sizeof in - in_count);
    if (got > 0) {
        in_count += got;
        heard = greeted ? milliseconds() : heard; // what comes before the greeting is no sign of life
    } else {
        absent = got == 0 || !passing();
    }
}

// For the end that opens the streams: ask the other one for signs of life, and end without them.
static void look_after(void) {
    int64_t now = milliseconds();
    if (absent && (greeted || now - heard > CONNECTED)) {
        die("the worker has gone");
    }
    if (now - heard >= silence) {
        fprintf(stderr, "zosia-streams: the worker gave no sign of life for %d s\n", (int) (silence / 1000));
        exit(1);
    }
    if (greeted && now - (heard > pinged ? heard : pinged) >= silence / 4 && fits(0)) {
        send_frame(PING, 0, 0);
        pinged = now;
    }
}

static void write_port(void) {
    ssize_t sent = out_count > 0 ? write(port, out + out_from, out_count) : 0;
    if (sent > 0) {
        out_count -= sent;
        out_from = out_count > 0 ? out_from + sent : 0;
    } else if (sent < 0 && !passing()) {
        absent = true;
    }
}

// Wait for what can be done now, and for nothing else: poll reports a hangup even if no event is requested.
static void wait_for_events(void) {
    int pause = absent ? ABSENT : listener < 0 ? -1 : (int) (silence / 8);
    for (int i = 0; i < STREAMS; i++) {
        const struct stream * one = &streams[i];
        short wanted = (wants(one) ? POLLIN : 0) | (one->count > 0 || one->joining ? POLLOUT : 0);
        bool open = one->id != 0 && one->fd >= 0;
        if (one->id != 0 && !open && !one->lost && !absent) {
            pause = BUSY;
        }
        events[i] = (struct pollfd) {.fd = open && wanted ? one->fd : -1, .events = wanted};
    }
    if (held && fits(ANSWER)) {
        pause = 0;
    }
    held = false;
    short wanted = (in_count < sizeof in ? POLLIN : 0) | (out_count > 0 ? POLLOUT : 0);
    events[STREAMS] = (struct pollfd) {.fd = absent ? -1 : port, .events = wanted};
    events[STREAMS + 1] = (struct pollfd) {.fd = greeted && fits(0) ? listener : -1, .events = POLLIN};
    absent = false;
    if (poll(events, STREAMS + 2, pause) < 0) {
        if (errno != EINTR) {
            die("poll failed");
        }
        memset(events, 0, sizeof events);
    }
}

static void serve(void) {
    static int turn; // the stream that is served first
    for (;;) {
        wait_for_events();
        short ready = events[STREAMS].revents;
        if (ready & POLLIN) {
            read_port();
        } else if (ready & (POLLHUP | POLLERR | POLLNVAL)) {
            absent = true;
        }
        handle_input();
        if (events[STREAMS + 1].revents != 0) {
            admit();
        }
        int first = turn;
        for (int i = 0; i < STREAMS; i++) {
            int place = (first + i) % STREAMS;
            if (streams[place].id != 0) {
                size_t before = out_count;
                attend(&streams[place], events[place].revents);
                turn = out_count > before ? (place + 1) % STREAMS : turn;
            }
        }
        write_port();
        if (listener >= 0) {
            look_after();
        }
    }
}

// Set the server's address from its name: a path, a number, or @ and a file descriptor.
static void find_server(const char * name) {
    char * end;
    if (*name == '@') {
        handing = atoi(name + 1);
        return;
    }
    long number = strtol(name, &end, 10);
    if (*name != '\0' && *end == '\0' && number > 0 && number < 65536) {
        server.number = (struct sockaddr_in) {.sin_family = AF_INET, .sin_port = htons(number)};
        server.number.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        server_size = sizeof server.number;
    } else {
        if (strlen(name) >= sizeof server.path.sun_path) {
            die("the path of the socket is too long");
        }
        server.path.sun_family = AF_UNIX;
        strcpy(server.path.sun_path, name);
        server_size = sizeof server.path;
    }
}

// Take the server's place, and greet the other end.
static void begin(const char * seconds) {
    silence = INT64_C(1000) * atoi(seconds);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (silence <= 0 || server.any.sa_family != AF_INET || listener < 0) {
        die("expected a port, a number and seconds");
    }
    if (bind(listener, &server.any, server_size) != 0 || listen(listener, QUEUE) != 0) {
        die("connections can't be taken");
    }
    memcpy(greeting, "zos1", 4);
    if (getrandom(greeting + 4, GREETING - 4, 0) != GREETING - 4) {
        die("there are no random numbers");
    }
    memcpy(next_payload(GREETING), greeting, GREETING);
    send_frame(HELLO, 0, GREETING);
    heard = milliseconds();
}

int main(int count, char ** words) {
    if (count != 3 && count != 4) {
        die("expected a port and a server");
    }
    find_server(words[2]);
    const char * number = getenv("ZOSIA_PULSE");
    pulse = number != NULL ? atoi(number) : -1;
    port = strcmp(words[1], "-") == 0 ? 0 : open(words[1], O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (port < 0 || fcntl(port, F_SETFL, O_NONBLOCK) != 0) {
        die("the port can't be opened");
    }
    for (int i = 0; i < STREAMS; i++) {
        streams[i].fd = -1;
    }
    signal(SIGPIPE, SIG_IGN);
    if (count == 4) {
        begin(words[3]);
    }
    serve();
}
