/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The keeper: the process that must not die, and therefore does next to nothing. It holds
 * descriptors and records for the worker (keep.h), starts it again when it died, and hands it
 * everything back. It reads no byte that a sibling or the storage VM wrote: it moves them, by count,
 * out of a socket (EAT), and sends what the worker made.
 *
 * The worker is the part that foreign bytes reach, so its commits are looked at as foreign, too:
 * keys and lengths are checked, and paths come from the command line, never from a commit.
 *
 * A worker that dies again and again is started more and more slowly (RESTARTS within a second,
 * then one per second): the message that kills it lies in one socket, but all siblings wait.
 */
#include "keep.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RESTARTS 20

static int fds[KEYS];
static struct {
    uint32_t len;
    uint8_t data[RECORD_BYTES];
} record[RECORDS];
static pid_t worker;
static int worker_sock = -1;

static const char *path_of(uint32_t key)
{
    uint32_t k = key % KEYS_EACH, s = key / KEYS_EACH;
    if (key == KEY_RELAY_LISTEN)
        return config.relay;
    if (s >= config.siblings)
        return NULL;
    return k == KEY_VHOST_LISTEN     ? config.sibling[s].vhost
           : k == KEY_IVSHMEM_LISTEN ? config.sibling[s].ivshmem
                                     : NULL;
}

/* The path goes first: who finds it may count on being answered. */
static void drop(uint32_t key)
{
    if (fds[key] < 0)
        return;
    if (path_of(key))
        unlink(path_of(key));
    close(fds[key]);
    fds[key] = -1;
}

static void hold(uint32_t key, int fd)
{
    if (fds[key] >= 0)
        close(fds[key]);
    fds[key] = fd;
}

/* ------------------------------------------------------------------------------------------------
 * Commits */

struct cursor {
    const uint8_t *at;
    size_t left;
    int fd[KEEP_FDS];
    unsigned fds, used;
};

static bool next_step(struct cursor *c, struct keep_step *s, const uint8_t **data)
{
    if (c->left < sizeof(*s))
        return false;
    memcpy(s, c->at, sizeof(*s));
    if (s->len > c->left - sizeof(*s))
        return false;
    *data = c->at + sizeof(*s);
    c->at += sizeof(*s) + s->len;
    c->left -= sizeof(*s) + s->len;
    return true;
}

static bool step_ok(const struct keep_step *s, bool first)
{
    switch (s->op) {
    case KEEP_SEND:
        return first && s->key < KEYS && (s->arg == KEY_NONE || s->arg < KEYS);
    case KEEP_ACCEPT:
        return first && s->key < KEYS && s->arg < KEYS && path_of(s->key) && !path_of(s->arg);
    case KEEP_LISTEN:
        return first && s->key < KEYS && path_of(s->key) && fds[s->key] < 0;
    case KEEP_TAKE:
        return s->key < KEYS && !path_of(s->key);
    case KEEP_DROP:
    case KEEP_EAT:
        return s->key < KEYS;
    case KEEP_PUT:
        return s->key < RECORDS && s->len <= RECORD_BYTES;
    default:
        return false;
    }
}

static bool commit_ok(struct cursor c)
{
    struct keep_step s;
    const uint8_t *data;
    unsigned takes = 0;
    for (bool first = true; c.left; first = false) {
        if (!next_step(&c, &s, &data) || !step_ok(&s, first))
            return false;
        takes += s.op == KEEP_TAKE;
    }
    return takes == c.fds;
}

static int send_step(const struct keep_step *s, const uint8_t *data)
{
    int fd = s->arg == KEY_NONE ? -1 : fds[s->arg];
    int n = datagram_send(fds[s->key], data, s->len, &fd, s->arg != KEY_NONE, MSG_DONTWAIT);
    return n < 0 ? -errno : n != (int)s->len ? -EPIPE : 0;
}

/* The step that may fail. *fd: what goes back with the answer. */
static int first_step(const struct keep_step *s, const uint8_t *data, int *fd)
{
    switch (s->op) {
    case KEEP_SEND:
        return send_step(s, data);
    case KEEP_ACCEPT:
        *fd = accept4(fds[s->key], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (*fd < 0)
            return -errno;
        hold(s->arg, *fd);
        return 0;
    case KEEP_LISTEN:
        *fd = listen_at(path_of(s->key));
        if (*fd < 0)
            return -errno;
        hold(s->key, *fd);
        return 0;
    default:
        return 0;
    }
}

static void eat(uint32_t key, size_t bytes)
{
    uint8_t waste[2048];
    while (bytes) {
        size_t part = bytes < sizeof(waste) ? bytes : sizeof(waste);
        ssize_t n = recv(fds[key], waste, part, MSG_DONTWAIT);
        if (n <= 0)
            return; /* nobody else reads: it was there when the worker looked */
        bytes -= (size_t)n;
    }
}

static void later_step(const struct keep_step *s, const uint8_t *data, struct cursor *c)
{
    switch (s->op) {
    case KEEP_TAKE:
        hold(s->key, c->fd[c->used++]);
        break;
    case KEEP_DROP:
        drop(s->key);
        break;
    case KEEP_PUT:
        record[s->key].len = s->len;
        memcpy(record[s->key].data, data, s->len);
        break;
    case KEEP_EAT:
        eat(s->key, s->arg);
        break;
    }
}

static int carry_out(struct cursor *c, int *fd)
{
    struct keep_step s;
    const uint8_t *data;
    for (bool first = true; next_step(c, &s, &data); first = false) {
        int status = first ? first_step(&s, data, fd) : 0;
        if (status < 0)
            return status;
        later_step(&s, data, c);
    }
    return 0;
}

/* False: the worker is dead, or talks nonsense. */
static bool commit_take(void)
{
    static uint8_t data[KEEP_BYTES];
    struct cursor c = {.at = data, .fds = KEEP_FDS};
    int fd = -1, status = -EBADMSG;
    int n = datagram_receive(worker_sock, data, sizeof(data), c.fd, &c.fds, 0);
    if (n <= 0)
        return false;
    c.left = (size_t)n;
    if (commit_ok(c))
        status = carry_out(&c, &fd);
    while (c.used < c.fds)
        close(c.fd[c.used++]);
    if (status == -EBADMSG)
        say("the worker's commit makes no sense");
    return status != -EBADMSG &&
           datagram_send(worker_sock, &status, sizeof(status), &fd, fd >= 0, 0) > 0;
}

/* ------------------------------------------------------------------------------------------------
 * The worker's life */

static bool give_fd(uint32_t key)
{
    struct keep_step s = {.op = KEEP_TAKE, .key = key};
    return fds[key] < 0 || datagram_send(worker_sock, &s, sizeof(s), &fds[key], 1, 0) > 0;
}

static bool give_record(uint32_t number)
{
    uint8_t data[sizeof(struct keep_step) + RECORD_BYTES];
    struct keep_step s = {.op = KEEP_PUT, .key = number, .len = record[number].len};
    memcpy(data, &s, sizeof(s));
    memcpy(data + sizeof(s), record[number].data, s.len);
    return !s.len || datagram_send(worker_sock, data, sizeof(s) + s.len, NULL, 0, 0) > 0;
}

static bool give_everything(void)
{
    struct keep_step s = {.op = KEEP_START};
    bool ok = true;
    for (uint32_t k = 0; ok && k < KEYS; k++)
        ok = give_fd(k);
    for (uint32_t r = 0; ok && r < RECORDS; r++)
        ok = give_record(r);
    return ok && datagram_send(worker_sock, &s, sizeof(s), NULL, 0, 0) > 0;
}

static void worker_child(int sock, pid_t keeper)
{
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != keeper)
        _exit(1);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (uint32_t k = 0; k < KEYS; k++) /* they come back in order, with what belongs to them */
        if (fds[k] >= 0)
            close(fds[k]);
    worker_run(sock);
}

static void worker_start(void)
{
    int pair[2];
    pid_t me = getpid();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        die("socketpair: %s", strerror(errno));
    worker = fork();
    if (worker < 0)
        die("fork: %s", strerror(errno));
    if (worker == 0) {
        close(pair[0]);
        worker_child(pair[1], me);
    }
    close(pair[1]);
    worker_sock = pair[0];
    if (!give_everything())
        kill(worker, SIGKILL); /* its end is seen below */
}

static void slow_down(void)
{
    static time_t second;
    static unsigned count;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    count = now.tv_sec == second ? count + 1 : 0;
    second = now.tv_sec;
    if (count >= RESTARTS) {
        say("the worker dies too often: waiting");
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    }
}

static void worker_again(int status)
{
    if (WIFSIGNALED(status))
        say("worker died (signal %d), starting another", WTERMSIG(status));
    else
        say("worker ended (status %d), starting another", WEXITSTATUS(status));
    close(worker_sock);
    slow_down();
    worker_start();
}

/* ------------------------------------------------------------------------------------------------
 * All the rest */

static void open_everything(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    memset(fds, 0xff, sizeof(fds));
    path_must_be_free(config.relay);
    for (unsigned i = 0; i < config.siblings; i++) {
        path_must_be_free(config.sibling[i].vhost);
        path_must_be_free(config.sibling[i].ivshmem);
    }
    for (unsigned i = 0; i < config.siblings; i++) {
        fds[KEY(i, KEY_MEMORY)] = memory_open(&config.sibling[i]);
        fds[KEY(i, KEY_IVSHMEM_LISTEN)] = listen_at(config.sibling[i].ivshmem);
        if (fds[KEY(i, KEY_IVSHMEM_LISTEN)] < 0)
            die("%s: %s", config.sibling[i].ivshmem, strerror(errno));
    }
    fds[KEY_RELAY_LISTEN] = listen_at(config.relay);
    if (fds[KEY_RELAY_LISTEN] < 0)
        die("%s: %s", config.relay, strerror(errno));
}

/* Children that ended. False: the storage VM's process has, so everything has. */
static bool reap(int *exit_status)
{
    int status;
    pid_t pid;
    bool lost = false;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == worker) {
            worker_again(status);
            continue;
        }
        *exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
        lost = true;
    }
    return !lost;
}

static bool signal_take(int fd, int *exit_status)
{
    struct signalfd_siginfo info;
    if (read(fd, &info, sizeof(info)) != sizeof(info))
        return true;
    return info.ssi_signo == SIGCHLD && reap(exit_status);
}

static int serve(int signals)
{
    int exit_status = 0;
    for (;;) {
        struct pollfd p[2] = {{.fd = signals, .events = POLLIN},
                              {.fd = worker_sock, .events = POLLIN}};
        if (poll(p, LEN(p), -1) < 0)
            continue;
        if (p[1].revents && !commit_take()) {
            kill(worker, SIGKILL); /* then SIGCHLD, from it and nobody else */
            waitpid(worker, &exit_status, 0);
            worker_again(exit_status);
            exit_status = 0;
        }
        if (p[0].revents && !signal_take(signals, &exit_status))
            return exit_status;
    }
}

int keeper_run(int storage_vm)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN); /* of a log that nobody reads */
    open_everything();
    int signals = signalfd(-1, &set, SFD_CLOEXEC);
    sandbox_keeper();
    worker_start();
    say("ready: %u siblings", config.siblings);
    if (storage_vm >= 0)
        storage_vm_go(storage_vm);
    int status = serve(signals);
    kill(worker, SIGKILL);
    if (storage_vm >= 0) {
        shutdown(storage_vm, SHUT_RDWR); /* it ends the storage VM, and then itself */
        while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) {
        }
    }
    for (uint32_t k = 0; k < KEYS; k++)
        drop(k);
    return status;
}
