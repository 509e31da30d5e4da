/* For CRIU 4.1 and older on Linux 6.16 and newer, which answers EOPNOTSUPP where it answered 0 before:
 * SO_PASSCRED and SO_PASSSEC are of Unix and netlink sockets alone. CRIU 4.2 knows that.
 *
 *     gcc -shared -fPIC -o /usr/local/lib/passcred.so passcred.c
 *     LD_PRELOAD=/usr/local/lib/passcred.so criu ...
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

int getsockopt(int socket, int level, int name, void *value, socklen_t *size)
{
    int (*kernels)(int, int, int, void *, socklen_t *) = dlsym(RTLD_NEXT, "getsockopt");
    int result = kernels(socket, level, name, value, size);

    if (result < 0 && errno == EOPNOTSUPP && level == SOL_SOCKET && (name == SO_PASSCRED || name == SO_PASSSEC)) {
        memset(value, 0, *size);
        return 0;
    }
    return result;
}
