import 'dart:convert';
import 'dart:io';
import 'dart:math';

class Landing {
  const Landing(this.screen, {this.params = const {}, this.url, this.clickId});

  final String screen;
  final Map<String, String> params;
  final String? url;
  final String? clickId;
}

/// Asks firstopen where this launch should land. Never throws; for a launch screen that waits 2.5 s or longer.
class FirstOpen {
  FirstOpen({
    required this.baseUrl,
    required this.publishableKey,
    required this.domain,
    required this.read,
    required this.write,
    required this.installReferrer,
    required this.clipboard,
    this.appVersion,
    this.home = const Landing('home'),
  });

  final String baseUrl, publishableKey, domain;
  final String? appVersion;
  final Landing home;

  /// Where the installId is kept: somewhere that goes with the app and that no backup carries to a second
  /// phone. flutter_secure_storage with KeychainAccessibility.first_unlock_this_device, and its preferences
  /// left out of Android's backup rules, is; shared_preferences is not.
  final Future<String?> Function(String key) read;
  final Future<void> Function(String key, String value) write;

  /// On Android, the raw string of the Play Install Referrer (package:android_play_install_referrer); else null.
  final Future<String?> Function() installReferrer;

  /// On iOS, if Clipboard.hasStrings() and the person agrees, the text of Clipboard.getData; else null.
  final Future<String?> Function() clipboard;

  static const _referrer = Duration(milliseconds: 500);
  static const _budget = Duration(milliseconds: 1500);
  static const _network = Duration(milliseconds: 300);

  Future<Landing> landing([Uri? deepLink]) async {
    try {
      final first = await read('firstopen.answered') == null;
      if (!first && deepLink == null) return home;
      final pasted = first && deepLink == null && Platform.isIOS ? await clipboard() : null;
      final answer = await _report({
        'deepLink': deepLink?.toString(),
        'dubDomain': domain,
        'installId': await _installId(),
        'platform': Platform.operatingSystem,
        'appVersion': appVersion,
        'budgetMs': _budget.inMilliseconds,
        if (first && Platform.isAndroid)
          'installReferrer': await installReferrer().timeout(_referrer, onTimeout: () => null),
        if (pasted != null && pasted.length <= 2048 && pasted.contains(domain)) 'clipboard': pasted,
      }).timeout(_budget + _network);
      await write('firstopen.answered', 'yes');
      return answer;
    } catch (_) {
      return home; // and the next launch asks again: with the same installId that is safe
    }
  }

  Future<Landing> _report(Map<String, Object?> open) async {
    final client = HttpClient()..connectionTimeout = _budget + _network;
    try {
      final request = await client.postUrl(Uri.parse('$baseUrl/v1/opens'));
      request.headers.set(HttpHeaders.authorizationHeader, 'Bearer $publishableKey');
      request.headers.contentType = ContentType.json;
      request.write(jsonEncode(open));
      final response = await request.close();
      final text = await response.transform(utf8.decoder).join();
      if (response.statusCode != HttpStatus.ok) throw HttpException('firstopen answered ${response.statusCode}');
      final answer = jsonDecode(text) as Map<String, dynamic>;
      final route = answer['route'] as Map<String, dynamic>;
      return Landing(
        route['screen'] as String,
        params: Map<String, String>.from(route['params'] as Map),
        url: route['url'] as String?,
        clickId: answer['clickId'] as String?,
      );
    } finally {
      client.close();
    }
  }

  Future<String> _installId() async {
    final known = await read('firstopen.installId');
    if (known != null) return known;
    final random = Random.secure();
    final fresh = List.generate(32, (_) => random.nextInt(16).toRadixString(16)).join();
    await write('firstopen.installId', fresh);
    return fresh;
  }
}
