/// Returns the first URL in [text] whose host is one of [domains].
String? ownLink(String text, List<String> domains) {
  final hosts = domains.map(_bareHost).toSet();
  for (final found in RegExp(r'https?://[a-z0-9._~:/?#@!$&*+,;=%-]+', caseSensitive: false).allMatches(text)) {
    final url = found[0]!.replaceFirst(RegExp(r'[.,:;!?*]+$'), '');
    final uri = Uri.tryParse(url);
    if (uri == null || uri.userInfo.isNotEmpty || url.length > 2048) continue;
    if (hosts.contains(_bareHost(uri.host))) return url;
  }
  return null;
}

String _bareHost(String host) => host.toLowerCase().replaceFirst(RegExp(r'^www\.'), '');
