/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The bridge's worker between two hostile siblings and a hostile storage VM. The keeper is played
 * here: commits are carried out at once, on real sockets. An input is a list of acts of the peers
 * (act, sibling, length, bytes); after each the worker must come to rest, and what it said must be
 * something that stock QEMU survives. An act may also be the worker's own death: it then goes on
 * from the records.
 */
#include "tools/bridge/worker.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define SIBLINGS 2u
#define MEMORY   65536
#define TURNS    2000

struct config config = {.relay = "r", .siblings = SIBLINGS, .direct = 3, .timeout = 3600000};
int held[KEYS];

static int memory[SIBLINGS], vhost[SIBLINGS], device[SIBLINGS], vm; /* the peers' ends, or -1 */
static int knocking[KEYS]; /* by listener: the bridge's end of who wants to come in */
static struct {            /* what the storage VM's QEMU knows of a device */
    unsigned heard, vectors;
    uint8_t peer[65536 / 8];
} iv[SIBLINGS];

void say(const char *fmt, ...)
{
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
}

void sandbox_worker(void)
{
}

void limit_waits(void)
{
}

/* ------------------------------------------------------------------------------------------------
 * The keeper */

static struct {
    uint8_t send[BRIDGE_FRAME_MAX];
    size_t len;
    uint32_t send_key, send_fd, accept, listen, gets;
    struct {
        int op;
        uint32_t key;
        int fd;
        size_t bytes;
    } step[300];
    unsigned steps;
} commit;

static void set(uint32_t key, int fd)
{
    if (held[key] >= 0) {
        held_closing(key);
        close(held[key]);
    }
    held[key] = fd;
    if (fd >= 0)
        held_changed(key);
}

void keep_begin(void)
{
    commit.steps = 0;
    commit.send_key = commit.accept = commit.listen = KEY_NONE;
}

void keep_send(uint32_t key, const void *data, size_t len, uint32_t fd_key)
{
    assert(len <= sizeof(commit.send) && !commit.steps);
    memcpy(commit.send, data, len);
    commit.len = len;
    commit.send_key = key;
    commit.send_fd = fd_key;
}

void keep_accept(uint32_t listener, uint32_t key)
{
    assert(!commit.steps);
    commit.accept = listener;
    commit.gets = key;
}

void keep_listen(uint32_t key)
{
    assert(!commit.steps && held[key] < 0);
    commit.listen = key;
}

static void later(int op, uint32_t key, int fd, size_t bytes)
{
    assert(commit.steps < LEN(commit.step));
    commit.step[commit.steps].op = op;
    commit.step[commit.steps].key = key;
    commit.step[commit.steps].fd = fd;
    commit.step[commit.steps++].bytes = bytes;
}

void keep_take(uint32_t key, int fd)
{
    later(KEEP_TAKE, key, fd, 0);
}

void keep_drop(uint32_t key)
{
    if (held[key] >= 0)
        later(KEEP_DROP, key, -1, 0);
}

void keep_put(uint32_t record, const void *data, size_t len)
{
    assert(record < RECORDS && len <= RECORD_BYTES && data);
}

void keep_eat(uint32_t key, size_t bytes)
{
    later(KEEP_EAT, key, -1, bytes);
}

static int first(void)
{
    if (commit.send_key != KEY_NONE) {
        int fd = commit.send_fd == KEY_NONE ? -1 : held[commit.send_fd];
        assert(commit.send_fd == KEY_NONE || fd >= 0);
        int n = datagram_send(held[commit.send_key], commit.send, commit.len, &fd, fd >= 0,
                              MSG_DONTWAIT);
        return n < 0 ? -errno : 0;
    }
    if (commit.listen != KEY_NONE)
        set(commit.listen, eventfd(0, EFD_NONBLOCK));
    if (commit.accept == KEY_NONE)
        return 0;
    uint64_t count;
    int fd = knocking[commit.accept];
    if (read(held[commit.accept], &count, sizeof(count)) < 0 || fd < 0)
        return -EAGAIN;
    knocking[commit.accept] = -1;
    set(commit.gets, fd);
    return 0;
}

static void eat(uint32_t key, size_t bytes)
{
    char waste[2048];
    while (bytes) {
        ssize_t n =
            recv(held[key], waste, bytes < sizeof(waste) ? bytes : sizeof(waste), MSG_DONTWAIT);
        assert(n > 0); /* the worker has seen it */
        bytes -= (size_t)n;
    }
}

int keep_commit(void)
{
    int r = first();
    for (unsigned i = 0; r == 0 && i < commit.steps; i++) {
        if (commit.step[i].op == KEEP_EAT)
            eat(commit.step[i].key, commit.step[i].bytes);
        else
            set(commit.step[i].key, commit.step[i].fd);
    }
    return r;
}

void keep_restore(int keeper, void (*put)(uint32_t record, const void *data, size_t len))
{
    (void)keeper;
    (void)put;
    memset(held, 0xff, sizeof(held));
}

/* ------------------------------------------------------------------------------------------------
 * Peers */

static void shut(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void knock(uint32_t listener, int *end)
{
    int pair[2];
    uint64_t one = 1;
    shut(end);
    if (held[listener] < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) < 0)
        return;
    shut(&knocking[listener]);
    knocking[listener] = pair[0];
    *end = pair[1];
    assert(write(held[listener], &one, sizeof(one)) == sizeof(one));
}

static size_t send_some(int fd, const void *data, size_t len)
{
    ssize_t n = fd < 0 ? 0 : send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n > 0 ? (size_t)n : 0;
}

/* A message with a good header; what the first bytes choose: request, flags, descriptors. */
static void send_message(unsigned s, const uint8_t *data, size_t len)
{
    uint8_t msg[512];
    int fds[2];
    unsigned n = 0;
    if (len < 3 || vhost[s] < 0)
        return;
    size_t body = len - 3 < 400 ? len - 3 : 400;
    struct vhost_user_header h;
    le32_set(&h.request, data[0] % 28);
    le32_set(&h.flags, data[1] & 1 ? 9 : 1);
    le32_set(&h.size, (uint32_t)body);
    memcpy(msg, &h, sizeof(h));
    memcpy(msg + sizeof(h), data + 3, body);
    if (data[2] & 3)
        fds[n++] = data[2] & 1 ? eventfd(0, EFD_NONBLOCK) : dup(memory[data[2] & 4 ? 0 : s]);
    if (data[2] & 8 && n)
        fds[n++] = dup(memory[s]);
    datagram_send(vhost[s], msg, sizeof(h) + body, fds, n, MSG_DONTWAIT);
    while (n)
        close(fds[--n]);
}

static void send_frame(unsigned kind, unsigned s, unsigned tag, const void *data, size_t len)
{
    uint8_t frame[BRIDGE_FRAME_MAX];
    struct bridge_frame h = {0};
    len = len < BRIDGE_PAYLOAD ? len : BRIDGE_PAYLOAD;
    le32_set(&h.magic, BRIDGE_MAGIC);
    le16_set(&h.kind, (uint16_t)kind);
    le16_set(&h.sibling, (uint16_t)s);
    le32_set(&h.len, (uint32_t)len);
    le16_set(&h.tag, (uint16_t)tag);
    memcpy(frame, &h, sizeof(h));
    memcpy(frame + sizeof(h), data, len);
    send_some(vm, frame, sizeof(h) + len);
}

static void send_hello(void)
{
    struct bridge_hello hello = {0};
    le32_set(&hello.version, BRIDGE_VERSION);
    send_frame(BRIDGE_HELLO, BRIDGE_ITSELF, 0, &hello, sizeof(hello));
}

/* An answer to what the sibling waits for: a good header, the rest is the input's. */
static void send_answer(unsigned s, const uint8_t *data, size_t len)
{
    uint8_t msg[BRIDGE_PAYLOAD] = {0};
    struct message m;
    struct vhost_user_header h;
    if (held[KEY(s, KEY_VHOST)] < 0 || message_peek_header(held[KEY(s, KEY_VHOST)], &m) <= 0)
        return;
    len = len < 300 ? len : 300;
    le32_set(&h.request, m.request);
    le32_set(&h.flags, 5);
    le32_set(&h.size, (uint32_t)len);
    memcpy(msg, &h, sizeof(h));
    memcpy(msg + sizeof(h), data, len);
    send_frame(BRIDGE_VHOST, s, sibling[s].st.waiting, msg, sizeof(h) + len);
}

/* What a device may be told, else QEMU crashes: see siblings' hazards in ivshmem.c. */
static void hear_device(unsigned s)
{
    le64 v;
    int fd;
    unsigned nfds = 1;
    while (device[s] >= 0 &&
           datagram_receive(device[s], &v, sizeof(v), &fd, &nfds, MSG_DONTWAIT) == sizeof(v)) {
        uint64_t n = le64_get(v);
        unsigned at = iv[s].heard++;
        assert((at == 0 && n == 0) || (at == 1 && n == s + 1) || (at == 2 && n == UINT64_MAX) ||
               at > 2);
        assert(nfds == (at >= 2));
        if (at > 2 && n == s + 1) {
            assert(++iv[s].vectors <= config.direct + 1);
        } else if (at > 2) {
            assert(n < 65536 && !(iv[s].peer[n / 8] & 1 << n % 8));
            iv[s].peer[n / 8] |= (uint8_t)(1 << n % 8);
        }
        if (nfds)
            close(fd);
        nfds = 1;
    }
}

static void hear_vm(void)
{
    uint8_t data[BRIDGE_FRAME_MAX];
    struct bridge_frame h;
    while (vm >= 0 && recv(vm, &h, sizeof(h), MSG_DONTWAIT) == sizeof(h)) {
        size_t more = le32_get(h.len) + 8u * le16_get(h.handles);
        assert(le32_get(h.magic) == BRIDGE_MAGIC && le32_get(h.len) <= BRIDGE_PAYLOAD);
        assert(le16_get(h.handles) <= BRIDGE_HANDLES && le16_get(h.kind) >= BRIDGE_HELLO &&
               le16_get(h.kind) <= BRIDGE_END);
        assert(le16_get(h.sibling) < SIBLINGS || le16_get(h.sibling) == BRIDGE_ITSELF);
        assert(recv(vm, data, more, MSG_DONTWAIT | MSG_TRUNC) == (more ? (ssize_t)more : -1) ||
               more == 0);
    }
}

static void hear_sibling(unsigned s)
{
    uint8_t data[MESSAGE_PAYLOAD];
    struct vhost_user_header h;
    while (vhost[s] >= 0 && recv(vhost[s], &h, sizeof(h), MSG_DONTWAIT) == sizeof(h)) {
        assert(le32_get(h.flags) == 5 && le32_get(h.size) <= sizeof(data));
        if (le32_get(h.size))
            assert(recv(vhost[s], data, le32_get(h.size), MSG_DONTWAIT) == (int)le32_get(h.size));
    }
}

static void reborn(void)
{
    for (unsigned s = 0; s < SIBLINGS; s++) {
        struct sibling *b = &sibling[s];
        assert(memcmp(&b->st, &b->kept, sizeof(b->st)) == 0); /* nothing that is not recorded */
        b->since = 0;
        b->late = b->settling = false;
        b->knock = held[KEY(s, KEY_VHOST_LISTEN)] >= 0;
        signal_all(b);
    }
    look_at_all();
}

static void ring_some(unsigned s, unsigned n)
{
    uint64_t one = 1;
    unsigned q = n % 4;
    int fd = held[KEY(s, n & 64 ? KEY_BELL + q : KEY_KICK + q)];
    if (fd >= 0)
        assert(write(fd, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN);
}

static void act(unsigned what, unsigned s, const uint8_t *data, size_t len)
{
    struct bridge_export e = {0};
    switch (what) {
    case 0:
        knock(KEY(s, KEY_VHOST_LISTEN), &vhost[s]);
        break;
    case 1:
        send_some(vhost[s], data, len);
        break;
    case 2:
    case 3:
    case 4:
        send_message(s, data, len);
        break;
    case 5:
        send_some(vm, data, len);
        break;
    case 6:
        send_frame(len ? data[0] % 11 : 0, s, sibling[s].st.waiting, data + 1, len ? len - 1 : 0);
        break;
    case 7:
        send_hello();
        break;
    case 8:
        le16_set(&e.on, !len || data[0] & 3);
        le16_set(&e.vectors, (uint16_t)(2 + len));
        send_frame(BRIDGE_EXPORT, s, 0, &e, sizeof(e));
        break;
    case 9:
        knock(KEY_RELAY_LISTEN, &vm);
        break;
    case 10:
        memset(&iv[s], 0, sizeof(iv[s]));
        knock(KEY(s, KEY_IVSHMEM_LISTEN), &device[s]);
        break;
    case 11:
        send_answer(s, data, len);
        break;
    case 12:
        front_timeout(&sibling[s]);
        break;
    case 13:
        reborn();
        break;
    case 14:
        ring_some(s, len ? data[0] : 0);
        break;
    default:
        shut(len & 1 ? &vm : len & 2 ? &device[s] : &vhost[s]);
    }
}

static void settle(void)
{
    unsigned turns = 0;
    for (bool more = true; more || turns < 4; turns++) {
        more = worker_turn(true);
        assert(turns < TURNS);
        for (unsigned s = 0; s < SIBLINGS; s++) {
            hear_device(s);
            hear_sibling(s);
        }
        hear_vm();
    }
}

static void begin(void)
{
    static bool once;
    if (!once)
        worker_begin(-1);
    for (unsigned s = 0; !once && s < SIBLINGS; s++) {
        memory[s] = memfd_create("memory", 0);
        assert(ftruncate(memory[s], MEMORY) == 0);
        config.sibling[s] = (struct sibling_config){.name = s ? "b" : "a", .memory = "m"};
    }
    if (!once)
        memset(knocking, 0xff, sizeof(knocking));
    once = true;
    vm = -1;
    for (unsigned s = 0; s < SIBLINGS; s++) {
        struct sibling fresh = {.number = s, .conf = &config.sibling[s], .look = true};
        sibling[s] = fresh;
        vhost[s] = device[s] = -1;
        set(KEY(s, KEY_MEMORY), dup(memory[s]));
        set(KEY(s, KEY_IVSHMEM_LISTEN), eventfd(0, EFD_NONBLOCK));
        memset(&iv[s], 0, sizeof(iv[s]));
    }
    set(KEY_RELAY_LISTEN, eventfd(0, EFD_NONBLOCK));
    relay_restore(&(struct relay){0}, sizeof(struct relay));
}

static void end(void)
{
    for (unsigned s = 0; s < SIBLINGS; s++) {
        shut(&vhost[s]);
        shut(&device[s]);
    }
    shut(&vm);
    for (uint32_t k = 0; k < KEYS; k++) {
        set(k, -1);
        shut(&knocking[k]);
    }
}

/* A served sibling, as most inputs need it. */
static void usual(void)
{
    static const unsigned acts[] = {10, 9, 7, 8, 0};
    for (unsigned i = 0; i < LEN(acts); i++) {
        act(acts[i], 0, NULL, 0);
        settle();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    begin();
    if (size && data[0] & 1)
        usual();
    for (size_t at = 1; at + 2 <= size;) {
        size_t len = data[at + 1], left = size - at - 2;
        len = len < left ? len : left;
        act(data[at] & 15, data[at] >> 4 & 1, data + at + 2, len);
        settle();
        at += 2 + len;
    }
    end();
    return 0;
}
