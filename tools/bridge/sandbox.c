/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What each part may ask of the kernel: a list of system calls by seccomp, in classic BPF, and no
 * new privileges. Anything else kills the process at once; for the worker that is one more death
 * that the keeper repairs.
 *
 * The worker opens nothing, connects nowhere, starts nothing and maps nothing: it works on the
 * descriptors that it is handed, and reads links in /proc/self/fd (is this an eventfd?). A filter is
 * inherited, so the keeper's list contains the worker's.
 */
#include "bridge.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

/* clang-format off */
#if defined(__x86_64__)
#define ARCH      AUDIT_ARCH_X86_64
#define UNLINK    SYS_unlink
#define OLD_CALLS SYS_poll, SYS_readlink, SYS_epoll_wait, /* only there */
#elif defined(__aarch64__)
#define ARCH      AUDIT_ARCH_AARCH64
#define UNLINK    SYS_unlinkat
#define OLD_CALLS
#else
#error "which architecture?"
#endif

#define OF_WORKER                                                                                  \
    OLD_CALLS SYS_read, SYS_write, SYS_pread64, SYS_close, SYS_sendmsg, SYS_recvmsg, SYS_recvfrom, \
    SYS_setsockopt, SYS_ioctl, SYS_fcntl, SYS_newfstatat, SYS_fstat, SYS_readlinkat, SYS_kcmp,     \
    SYS_eventfd2, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_ppoll, SYS_setitimer,     \
    SYS_clock_gettime, SYS_exit_group, SYS_rt_sigreturn, SYS_rt_sigaction, SYS_getpid
static const int of_worker[] = {OF_WORKER};

static const int of_keeper[] = {OF_WORKER,
    SYS_socket, SYS_bind, SYS_listen, SYS_accept4, SYS_connect, SYS_socketpair, SYS_shutdown,
    UNLINK, SYS_clone, SYS_wait4, SYS_kill, SYS_getppid, SYS_prctl, SYS_seccomp,
    SYS_rt_sigprocmask, SYS_nanosleep, SYS_clock_nanosleep, SYS_set_robust_list, SYS_gettid,
    SYS_restart_syscall, SYS_exit, SYS_rseq, SYS_brk,
};
/* clang-format on */

#define LOAD(field) \
    (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(what)     (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, what)
#define UNLESS(value, n) (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, n)

static void confine(const int *calls, size_t count)
{
    struct sock_filter f[4 + 2 * 80];
    unsigned short n = 0;
    f[n++] = LOAD(arch);
    f[n++] = UNLESS(ARCH, 1 + 2 * (unsigned char)count);
    f[n++] = LOAD(nr);
    for (size_t i = 0; i < count; i++) {
        f[n++] = UNLESS((unsigned)calls[i], 1);
        f[n++] = RETURN(SECCOMP_RET_ALLOW);
    }
    f[n++] = RETURN(SECCOMP_RET_KILL_PROCESS);
    struct sock_fprog prog = {.len = n, .filter = f};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) < 0)
        die("seccomp: %s", strerror(errno));
}

static_assert(LEN(of_keeper) <= 80, "room in the filter");

void sandbox_keeper(void)
{
    confine(of_keeper, LEN(of_keeper));
}

static void alarm_handler(int number)
{
    (void)number; /* it is enough that a system call ends */
}

void limit_waits(void)
{
    static const struct itimerval second = {.it_value = {.tv_sec = 1}};
    setitimer(ITIMER_REAL, &second, NULL);
}

void sandbox_worker(void)
{
    struct sigaction action = {.sa_handler = alarm_handler}; /* no SA_RESTART */
    sigaction(SIGALRM, &action, NULL);
    confine(of_worker, LEN(of_worker));
}
