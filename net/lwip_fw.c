/* SPDX-License-Identifier: BSD-2-Clause */
/* kernel/stream.h's listening on firmware: there is lwIP and nothing else. */
#include "net/net.h"

struct listener *co_listen(const struct listen_address *a, unsigned backlog,
                           void (*accepted)(void *ctx, struct stream *s), void *ctx,
                           struct error *err)
{
    return (struct listener *)net_listen(a, backlog, accepted, ctx, err);
}

void listener_close(struct listener *l)
{
    net_unlisten((struct net_listener *)l);
}
